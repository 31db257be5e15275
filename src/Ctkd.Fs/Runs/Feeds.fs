namespace Ctkd.Fs

open System
open Ctkd.Images

/// The images of a run, ready for its device, and what they are decoded and read with.
[<NoComparison; NoEquality>]
type Feeds = {
    /// None for an evaluation alone.
    Train: ImageFeed option
    /// None for an evaluation alone, and where no validation is held out.
    Validation: ImageFeed option
    Test: ImageFeed
    /// Closed in this order: the threads that decode photographs, and the packs that were opened for the feeds alone.
    Held: IDisposable list
} with

    interface IDisposable with
        member feeds.Dispose() = feeds.Held |> List.iter _.Dispose()

/// Files of images that cannot be read.
[<RequireQualifiedAccess>]
module Unreadable =

    /// Files that are named one by one.
    let private named = 5

    /// Says which files were found unreadable after the first `told` of them; returns the number that is told now.
    let say (say: string -> unit) (told: int) (files: (struct (string * string)) seq) : int =
        let files = List.ofSeq files

        for struct (name, reason) in files |> List.truncate named |> List.skip (min told (min named files.Length)) do
            say $"warning: {Files.printable name} is left out: {reason}"

        if files.Length > max named told then
            say $"warning: {files.Length} images are left out in all; ctkd data check lists them"

        files.Length

/// Feeds from settings and data.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Feeds =

    /// Images to evaluate on, of so many bytes or fewer, are decoded once and stay on the device.
    let private mostOnDevice = 1_000_000_000L

    /// Images that are decoded at once for the device.
    let private chunk = 256

    let private threads (s: Settings) : int =
        if s.Photos.DecodeThreads > 0 then s.Photos.DecodeThreads else Environment.ProcessorCount

    /// A stream whose loader keeps decoded images up to so many bytes.
    let private stream
        (kept: int64)
        (s: Settings)
        (dtype: DType)
        (device: Device)
        (data: Splits)
        (set: ImageSet)
        (photos: PhotoSet)
        =
        let loader = new PhotoLoader(photos.Source, threads s, set.Height, set.Width, PhotoStream.slabs, kept)
        let images = ImageSet.count set

        {
            Loader = loader
            Labels = set.Labels
            Used = if s.DropLast then images / s.Batch * s.Batch else images
            Height = set.Height
            Width = set.Width
            LeastArea = s.Photos.CropArea
            Mean = Augment.perChannel dtype device data.Mean
            Std = Augment.perChannel dtype device data.Std
        }

    /// Photographs to evaluate on, decoded once to bytes on the device. Those that cannot be decoded are left out.
    let private decoded (kind: string) (stream: PhotoStream) : DeviceSet =
        let row = 3 * stream.Height * stream.Width
        let bytes = Array.zeroCreate<byte>(stream.Labels.Length * row)
        let labels = ResizeArray<int64>()
        let cut = PhotoStream.evaluationCut stream.Height

        for images in Array.chunkBySize chunk [| 0 .. stream.Labels.Length - 1 |] do
            use request = stream.Loader.Request(images, images, cut, false)
            PhotoStream.wait request
            let pixels = request.Bytes

            for i in 0 .. images.Length - 1 do
                if request.Images[i] = images[i] then
                    pixels.Slice(i * row, row).CopyTo(Span(bytes, labels.Count * row, row))
                    labels.Add(int64 stream.Labels[images[i]])

        if labels.Count = 0 then
            Error.raise (PhotoStream.unreadable $"not one of {stream.Labels.Length} {kind} images is whole")

        let device, count = Tensor.device stream.Mean, labels.Count

        {
            Images =
                Tensor.scope (fun () ->
                    PhotoStream.pixels device count stream.Height stream.Width (ReadOnlySpan(bytes, 0, count * row))
                )
            Labels = Tensor.scope (fun () -> Tensor.ofInt64s [ count ] (labels.ToArray()) |> Tensor.toDevice device)
            Mean = stream.Mean
            Std = stream.Std
            Mix = None
        }

    /// Images to evaluate on: `set` of the data, which messages call by its kind.
    let private evaluated
        s
        dtype
        device
        say
        (data: Splits)
        (kind: string)
        (set: ImageSet)
        : ImageFeed * IDisposable list =
        match set.Images with
        | Pixels.InMemory _ -> OnDevice(Augment.upload dtype device data.Mean data.Std set), []
        | Pixels.InFiles photos ->
            // Each image is decoded once, or once in an evaluation.
            let stream = stream 0L s dtype device data set photos
            let bytes = 3L * int64 set.Height * int64 set.Width * int64 (ImageSet.count set)

            if bytes > mostOnDevice then
                Streamed stream, [ stream.Loader :> IDisposable ]
            else
                use loader = stream.Loader
                let onDevice = decoded kind stream
                Unreadable.say say 0 loader.Unreadable |> ignore
                OnDevice onDevice, []

    /// The test images alone.
    let test (s: Settings) (dtype: DType) (device: Device) (say: string -> unit) (data: Splits) : Feeds =
        let test, held = evaluated s dtype device say data "test" data.Test
        { Train = None; Validation = None; Test = test; Held = held }

    /// The test images, and the validation where there is one.
    let private evaluations s dtype device say (data: Splits) : Feeds =
        let feeds = test s dtype device say data

        match data.Validation with
        | None -> feeds
        | Some set ->
            let validation, held = evaluated s dtype device say data "validation" set

            { feeds with Validation = Some validation; Held = feeds.Held @ held }

    /// Training, validation and test images.
    let create (s: Settings) (dtype: DType) (device: Device) (say: string -> unit) (data: Splits) : Feeds =
        let feeds = evaluations s dtype device say data

        match data.Train.Images with
        | Pixels.InMemory _ -> {
            feeds with
                Train = Some(OnDevice(Augment.upload dtype device data.Mean data.Std data.Train))
          }
        | Pixels.InFiles photos ->
            let stream = stream (int64 (s.Photos.DecodedGb * 1e9)) s dtype device data data.Train photos

            {
                feeds with
                    Train = Some(Streamed stream)
                    Held = (stream.Loader :> IDisposable) :: feeds.Held
            }

    /// Feeds that close the packs of their data, too: nobody else reads these.
    let owning (data: Splits) (feeds: Feeds) : Feeds =
        let held (set: ImageSet) : IDisposable option =
            match set.Images with
            | Pixels.InFiles { Source = :? IDisposable as source } -> Some source
            | Pixels.InFiles _
            | Pixels.InMemory _ -> None

        { feeds with Held = feeds.Held @ List.choose held [ data.Train; data.Test ] }
