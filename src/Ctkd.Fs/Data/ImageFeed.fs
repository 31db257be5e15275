namespace Ctkd.Fs

open System
open System.Collections.Generic
open Ctkd.Images

/// Photographs that are decoded, cut and uploaded while a run needs them.
[<NoComparison; NoEquality>]
type PhotoStream = {
    Loader: PhotoLoader
    /// The class of each photograph, or -1.
    Labels: int[]
    /// The images of an epoch that training uses: all, or those of whole batches where it drops the rest.
    Used: int
    Height: int
    Width: int
    /// The smallest share of a photograph's area that a training crop takes, in (0, 1].
    LeastArea: float
    /// Per channel, for pixels from 0 to 1: [1, C, 1, 1].
    Mean: Tensor
    Std: Tensor
}

/// The images of a run: all on the device, or streamed to it.
[<NoComparison; NoEquality>]
type ImageFeed =
    | OnDevice of DeviceSet
    | Streamed of PhotoStream

/// The images of one epoch, in its order and with its cuts.
[<NoComparison; NoEquality>]
type EpochImages = {
    Count: int
    /// The images at positions start .. stop - 1.
    Batch: int -> int -> Batch
    /// The images at any positions.
    Pick: int[] -> Batch
    /// For each position, the number of its image and cut among all that the run's seed and data decide.
    Variants: int64[]
    /// The set and the order, where all images lie on the device.
    Resident: (DeviceSet * EpochOrder) option
    /// Ends decoding ahead.
    Free: unit -> unit
}

/// Batches of photographs.
[<RequireQualifiedAccess>]
module PhotoStream =

    /// The shorter side of test images before their middle is cut out: 256 / 224 of the size, as published.
    let shortSide (size: int) : int = int (Math.Round(float size * 256.0 / 224.0))

    /// The cut of test images: the shorter side resized (`shortSide`), then the middle.
    let evaluationCut (size: int) : CutChooser = Crop.evaluation (shortSide size) size

    /// Requests that are decoded while the latest batch is used.
    let private ahead = 2

    /// Buffers that a loader needs: those decoded ahead, the one in use, and one for any positions.
    let slabs = ahead + 2

    /// The error of photographs of which none can be read.
    let unreadable (why: string) : Error =
        Error.create
            Damaged
            $"the photographs cannot be read: {Files.printable why}"
            ""
            "check the disk, and the folder with: ctkd data check DIR"

    /// Waits until a request is decoded. Raises `CtkdException` (Damaged) where so many images in a row cannot be read that
    /// the disk may be gone.
    let wait (request: PhotoRequest) : unit =
        try
            request.Wait()
        with :? PhotoException as problem ->
            Error.raise (unreadable problem.Message)

    /// Decoded images as bytes [images, 3, height, width] on a device, from those of a loader, whose channels come last.
    let pixels (device: Device) (images: int) (height: int) (width: int) (bytes: ReadOnlySpan<byte>) : Tensor =
        let shape = [| images; height; width; 3 |] |> Array.map int64
        Tensor.ofBytes DType.Byte shape bytes |> Tensor.toDevice device |> Tensor.permute [| 0L; 3L; 1L; 2L |]

    /// A decoded request as a batch. Of test images, those that cannot be decoded are left out; in training others took
    /// their places.
    let private upload (stream: PhotoStream) (keep: PhotoRequest -> int[]) (request: PhotoRequest) : Batch =
        wait request
        let rows = keep request
        let device = Tensor.device stream.Mean

        Tensor.scopeWith
            (Batch.tensors >> Seq.ofList)
            (fun () ->
                let int64s values = Tensor.ofInt64s [ rows.Length ] values |> Tensor.toDevice device
                let pixels = pixels device request.Images.Length stream.Height stream.Width request.Bytes

                let pixels =
                    if rows.Length = request.Images.Length then
                        pixels
                    else
                        Tensor.indexSelect 0 (int64s (Array.map int64 rows)) pixels

                let images = rows |> Array.map (fun row -> request.Images[row])

                {
                    Images = pixels |> Augment.normalised stream.Mean stream.Std
                    Labels = int64s (images |> Array.map (fun image -> int64 stream.Labels[image]))
                    Index = int64s (Array.map int64 images)
                    Mix = None
                }
            )

    /// Batches of consecutive positions, decoded ahead where they begin among the first `used`: `images` gives the photograph
    /// at each position, and `replace` says whether another takes the place of one that cannot be read.
    let private consecutive (stream: PhotoStream) (images: int[]) (used: int) (cut: CutChooser) (replace: bool) =
        let pending = Queue<struct (int * int) * PhotoRequest>()

        let request (start: int) (stop: int) : PhotoRequest =
            let chosen = images[start .. stop - 1]
            stream.Loader.Request(chosen, chosen, cut, replace)

        let drop () =
            while pending.Count > 0 do
                (snd (pending.Dequeue())).Dispose()

        let batch (start: int) (stop: int) : PhotoRequest =
            let current =
                if pending.Count > 0 && fst (pending.Peek()) = struct (start, stop) then
                    snd (pending.Dequeue())
                else
                    drop ()
                    request start stop

            // The following batches have the same size but for the last.
            let mutable next = stop + pending.Count * (stop - start)

            while pending.Count < ahead && next < used do
                let last = min images.Length (next + stop - start)
                pending.Enqueue(struct (next, last), request next last)
                next <- last

            current

        struct (batch, drop)

    let private allRows (request: PhotoRequest) : int[] = Array.init request.Images.Length id

    /// An epoch of training: a permutation of the photographs, each with a random crop and a flip, from the generator and the
    /// photograph's number.
    let epoch (rng: Rng) (number: int) (stream: PhotoStream) : EpochImages =
        let count = stream.Labels.Length
        let draw purpose = rng |> Rng.split purpose |> Rng.at number
        let order = Rng.permutation count (draw "order") |> Array.map int
        let cut = Crop.training (draw "cuts") stream.LeastArea stream.Height
        let struct (batch, drop) = consecutive stream order stream.Used cut true

        {
            Count = count
            Batch =
                fun start stop ->
                    use request = batch start stop
                    upload stream allRows request
            Pick =
                fun positions ->
                    let images = positions |> Array.map (fun position -> order[position])
                    use request = stream.Loader.Request(images, images, cut)
                    upload stream allRows request
            Variants = order |> Array.map (fun image -> int64 (number - 1) * int64 count + int64 image)
            Resident = None
            Free = drop
        }

    /// Runs the body on the first `count` photographs in their order, in batches of a size: each whole one's middle. Those
    /// that cannot be decoded are left out.
    let each (batchSize: int) (count: int) (stream: PhotoStream) (body: Batch -> unit) : unit =
        let images = Array.init count id
        let struct (batch, drop) = consecutive stream images count (evaluationCut stream.Height) false

        try
            for start in 0..batchSize .. count - 1 do
                Tensor.scoped (fun () ->
                    use request = batch start (min count (start + batchSize))

                    let whole (request: PhotoRequest) =
                        allRows request |> Array.filter (fun row -> request.Images[row] = start + row)

                    let seen = upload stream whole request
                    if Tensor.size 0 seen.Labels > 0 then body seen
                )
        finally
            drop ()

/// Functions over the images of a run.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ImageFeed =

    /// Returns the number of images.
    let count (feed: ImageFeed) : int =
        match feed with
        | OnDevice set -> Augment.count set
        | Streamed stream -> stream.Labels.Length

    /// Returns the device of the batches.
    let device (feed: ImageFeed) : Device =
        match feed with
        | OnDevice set -> Tensor.device set.Images
        | Streamed stream -> Tensor.device stream.Mean

    /// The images of an epoch in a given order and with its cuts.
    let ordered (pad: int) (order: EpochOrder) (set: DeviceSet) : EpochImages = {
        Count = Augment.count set
        Batch = fun start stop -> Augment.batch pad order start stop set
        Pick = fun positions -> Augment.pick pad order positions set
        Variants = order.Variants
        Resident = Some(set, order)
        Free = ignore
    }

    /// The images of an epoch: `pad` and `flip` as for `Augment.shuffle`, which photographs ignore.
    let epoch (rng: Rng) (number: int) (pad: int) (flip: bool) (feed: ImageFeed) : EpochImages =
        match feed with
        | OnDevice set -> ordered pad (Augment.shuffle rng number pad flip set) set
        | Streamed stream -> PhotoStream.epoch rng number stream

    /// Runs the body on the first `most` images as evaluation sees them, in batches of a size. A batch is freed after its
    /// turn.
    let each (batchSize: int) (most: int) (feed: ImageFeed) (body: Batch -> unit) : unit =
        if batchSize < 1 then
            invalidArg (nameof batchSize) $"a batch must hold at least 1 image, got {batchSize}."

        let count = min most (count feed)

        match feed with
        | Streamed stream -> PhotoStream.each batchSize count stream body
        | OnDevice set ->
            for start in 0..batchSize .. count - 1 do
                Tensor.scoped (fun () -> Augment.plain start (min count (start + batchSize)) set |> body)

    /// The images with other labels, by the number of each (`Batch.Index`).
    let relabel (labels: int[]) (feed: ImageFeed) : ImageFeed =
        match feed with
        | Streamed stream -> Streamed { stream with Labels = labels }
        | OnDevice set ->
            OnDevice {
                set with
                    Labels =
                        Tensor.scope (fun () ->
                            Tensor.ofInt64s [ labels.Length ] (Array.map int64 labels)
                            |> Tensor.toDevice (Tensor.device set.Labels)
                        )
            }

    /// The photographs that could not be read so far, each with the reason.
    let unreadable (feed: ImageFeed) : struct (string * string) list =
        match feed with
        | OnDevice _ -> []
        | Streamed stream -> List.ofSeq stream.Loader.Unreadable

    /// The time that batches have waited for photographs to be decoded; zero for images on the device.
    let waited (feed: ImageFeed) : TimeSpan =
        match feed with
        | OnDevice _ -> TimeSpan.Zero
        | Streamed stream -> stream.Loader.Waited
