namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling
open Ctkd.Images

/// A class, and its probability by the softmax of the logits at T = 1.
type ClassChance = { Class: string; Probability: float }

/// What a network says of an image.
type Prediction = {
    Image: string
    /// The likeliest classes, most likely first.
    Classes: ClassChance list
    /// Why the image was not classified; None where it was.
    Problem: string option
}

/// How a network sees image files: size and normalisation as in its training, and the names of its classes.
type PredictOptions = {
    Height: int
    Width: int
    Mean: float list
    Std: float list
    /// In the order of the outputs; numbers stand for names where there are none.
    ClassNames: string list
    /// Classes that are told of each image.
    Top: int
    /// Images of a forward pass.
    Batch: int
    DecodeThreads: int
}

/// Classifies image files.
[<RequireQualifiedAccess>]
module Predict =

    /// Photographs are seen as in evaluation: the shorter side resized to 256 / 224 of the size, then the middle. Images of
    /// other data sets had the network's size: of a file the whole is resized, its middle where that size is a square.
    let private cut (isPhotos: bool) (o: PredictOptions) : CutChooser =
        if isPhotos then
            PhotoStream.evaluationCut o.Height
        elif o.Height = o.Width then
            Crop.evaluation o.Height o.Height
        else
            CutChooser(fun _ height width -> Cut(0, 0, height, width, o.Height, o.Width, 0, 0, false))

    let private wrong what next : Result<'T, Error> = Error.fail Usage what "" next

    /// Options for images of a size and a normalisation: the five likeliest classes, by their names where there are some.
    let standard (height: int) (width: int) mean std (classNames: string list) : PredictOptions = {
        Height = height
        Width = width
        Mean = mean
        Std = std
        ClassNames = classNames
        Top = 5
        Batch = 32
        DecodeThreads = Environment.ProcessorCount
    }

    /// What the record of a run says, or the zoo of a published ImageNet network.
    let optionsOf (trained: LoadedModel) : Result<PredictOptions, Error> =
        match trained.Info, Zoo.published trained.Model.Name with
        | Some info, _ ->
            let images = info.Images
            Ok(standard images.Height images.Width images.Mean images.Std (CheckpointInfo.classNames info))
        | None, Ok published when published.Size = PhotoSets.defaults.Size ->
            let size = published.Size
            Ok(standard size size PhotoSets.imageNetMean PhotoSets.imageNetStd [])
        | None, _ ->
            wrong
                $"the weights of {trained.Model.Name} do not say which images they were trained on"
                "give --size, --mean and --std"

    let private isPhotos (trained: LoadedModel) : bool =
        match trained.Info with
        | Some info -> info.Images.ShortSide > 0
        | None -> true

    let private check (trained: LoadedModel) (o: PredictOptions) : Result<unit, Error> =
        let classes = trained.Model.Classes

        if o.Mean.Length <> 3 || o.Std.Length <> 3 then
            wrong "mean and std are 3 numbers each, one a channel" "such as --mean 0.485 0.456 0.406"
        elif not o.ClassNames.IsEmpty && o.ClassNames.Length <> classes then
            wrong
                $"there are {o.ClassNames.Length} names of classes, and {trained.Model.Name} has {classes} classes"
                "give one name for each output, in their order"
        else
            Model.checkInput o.Height o.Width trained.Model

    let private chances (o: PredictOptions) (row: float[]) : ClassChance list =
        row
        |> Array.indexed
        |> Array.sortBy (fun (i, p) -> -p, i)
        |> Array.truncate o.Top
        |> Array.map (fun (i, p) -> {
            Class = (if o.ClassNames.IsEmpty then string i else o.ClassNames[i])
            Probability = p
        })
        |> List.ofArray

    /// Probabilities of a batch of decoded images: [images][classes].
    let private probabilities (device: Device) (o: PredictOptions) (forward: Tensor -> Tensor) (request: PhotoRequest) =
        Tensor.scoped (fun () ->
            let perChannel = Augment.perChannel DType.Float32 device

            PhotoStream.pixels device request.Images.Length o.Height o.Width request.Bytes
            |> Augment.normalised (perChannel o.Mean) (perChannel o.Std)
            |> forward
            |> Tensor.toType DType.Float64
            |> Tensor.softmax 1
            |> fun p -> Tensor.toFloats p |> Array.chunkBySize (Tensor.size 1 p)
        )

    /// <summary>Classifies image files of any size: JPEG, PNG, WebP, BMP or GIF.</summary>
    /// <param name="device">Where the network's weights are.</param>
    /// <param name="o">How it sees images (<c>optionsOf</c>).</param>
    /// <param name="trained">The network.</param>
    /// <param name="paths">The files.</param>
    /// <returns>A prediction for each file in their order; of one that cannot be read, why.</returns>
    let files (device: Device) (o: PredictOptions) (trained: LoadedModel) (paths: string list) =
        result {
            do! check trained o
            let names = Array.ofList paths

            if names.Length = 0 then
                return []
            else
                let source = FolderSource("", names |> Array.map Path.GetFullPath)
                use loader = new PhotoLoader(source, max 1 o.DecodeThreads, o.Height, o.Width, 2, 0L)
                let cut = cut (isPhotos trained) o

                let forward (images: Tensor) =
                    Autograd.noGrad (fun () -> (Model.forward trained.Model false trained.Weights images).Logits)

                let batch (numbers: int[]) =
                    use request = loader.Request(numbers, numbers, cut, false)
                    request.Wait()
                    let rows = probabilities device o forward request
                    let reasons = loader.Unreadable |> Seq.map _.ToTuple() |> Map.ofSeq

                    numbers
                    |> Array.mapi (fun row i ->
                        if request.Images[row] = i then
                            { Image = names[i]; Classes = chances o rows[row]; Problem = None }
                        else
                            { Image = names[i]; Classes = []; Problem = Some reasons[source.Name i] }
                    )

                return
                    Array.init names.Length id
                    |> Array.chunkBySize (max 1 o.Batch)
                    |> Array.collect batch
                    |> List.ofArray
        }
