namespace Ctkd.Fs

open System
open Ctkd.Images

/// A rectangle of a picture, in pixels.
[<RequireQualifiedAccess>]
type CropBox = { Top: int; Left: int; Height: int; Width: int }

/// Which part of a photograph a network sees, as torchvision's transforms choose it.
[<RequireQualifiedAccess>]
module Crop =

    let private roundEven (x: float) : int = int (Math.Round(x, MidpointRounding.ToEven))

    /// The middle of a picture in the nearest allowed ratio of sides.
    let private fallback (height: int) (width: int) : CropBox =
        let ratio = float width / float height

        let h, w =
            if ratio < 3.0 / 4.0 then roundEven (float width / (3.0 / 4.0)), width
            elif ratio > 4.0 / 3.0 then height, roundEven (float height * (4.0 / 3.0))
            else height, width

        {
            CropBox.Top = (height - h) / 2
            Left = (width - w) / 2
            Height = h
            Width = w
        }

    /// <summary>
    /// The box of torchvision's <c>RandomResizedCrop</c>: up to ten attempts with a share U(least, 1) of the picture's area and
    /// a ratio of width to height log-uniform in [3/4, 4/3]; the first that fits lies at a uniform place. After ten
    /// failures the middle is taken, in the nearest of these ratios.
    /// </summary>
    /// <param name="least">The least share of the area, in (0, 1]; 0.08 as published.</param>
    /// <param name="draw">Independent numbers, uniform in [0, 1), by index from 0.</param>
    /// <param name="height">Rows of the picture.</param>
    /// <param name="width">Columns of the picture.</param>
    /// <returns>The box, and the number of draws that it took: the next one is free for the flip.</returns>
    let random (least: float) (draw: int -> float) (height: int) (width: int) : struct (CropBox * int) =
        let area = float height * float width
        let low, high = log (3.0 / 4.0), log (4.0 / 3.0)

        let rec attempt (number: int) : struct (CropBox * int) =
            if number = 10 then
                struct (fallback height width, 20)
            else
                let share = area * (least + (1.0 - least) * draw (2 * number))
                let ratio = exp (low + (high - low) * draw (2 * number + 1))
                let w, h = roundEven (sqrt (share * ratio)), roundEven (sqrt (share / ratio))

                if w > 0 && w <= width && h > 0 && h <= height then
                    let next = 2 * number + 2
                    let place room index = int (floor (draw index * float (room + 1)))

                    let box: CropBox = {
                        CropBox.Top = place (height - h) next
                        Left = place (width - w) (next + 1)
                        Height = h
                        Width = w
                    }

                    struct (box, next + 2)
                else
                    attempt (number + 1)

        attempt 0

    let private checkSide (name: string) (side: int) : unit =
        if side < 1 then invalidArg name $"{name} must be at least 1, got {side}"

    /// <summary>Random cuts for training: a random box resized to a square, then mirrored half of the time.</summary>
    /// <param name="rng">The generator of an epoch: the cut at a position depends on this and on the position alone.</param>
    /// <param name="leastArea">The least share of the picture's area, in (0, 1]; 0.08 as published.</param>
    /// <param name="size">Pixels of a side of the result.</param>
    let training (rng: Rng) (leastArea: float) (size: int) : CutChooser =
        checkSide (nameof size) size

        if not (leastArea > 0.0 && leastArea <= 1.0) then
            invalidArg (nameof leastArea) $"leastArea must be in (0, 1], got {leastArea}"

        CutChooser(fun position height width ->
            let own = Rng.at position rng
            let struct (box, used) = random leastArea (fun index -> Rng.uniform index own) height width
            let mirror = Rng.uniform used own < 0.5
            Cut(box.Top, box.Left, box.Height, box.Width, size, size, 0, 0, mirror)
        )

    /// The size of a picture whose shorter side becomes `short`, rows first: the longer one is cut to whole pixels.
    let resized (short: int) (height: int) (width: int) : struct (int * int) =
        let longer (long: int) (other: int) = int (int64 short * int64 long / int64 other)

        if height < width then
            struct (short, longer width height)
        else
            struct (longer height width, short)

    /// The square of `side` pixels in the middle of a picture that is no smaller.
    let centre (side: int) (height: int) (width: int) : CropBox = {
        CropBox.Top = roundEven (float (height - side) / 2.0)
        Left = roundEven (float (width - side) / 2.0)
        Height = side
        Width = side
    }

    /// <summary>The cut of an evaluation: the shorter side resized, then the square in the middle.</summary>
    /// <param name="shortSide">Pixels of the shorter side after resizing, at least <c>size</c>; 256 as published.</param>
    /// <param name="size">Pixels of a side of the result; 224 as published.</param>
    let evaluation (shortSide: int) (size: int) : CutChooser =
        checkSide (nameof size) size

        if shortSide < size then
            invalidArg (nameof shortSide) $"shortSide must be at least the size {size}, got {shortSide}"

        CutChooser(fun _ height width ->
            let struct (rows, columns) = resized shortSide height width
            let window = centre size rows columns
            Cut(0, 0, height, width, rows, columns, window.Top, window.Left, false)
        )
