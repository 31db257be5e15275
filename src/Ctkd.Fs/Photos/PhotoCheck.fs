namespace Ctkd.Fs

open System
open System.Collections.Generic
open System.IO
open System.Security.Cryptography
open System.Threading
open System.Threading.Tasks
open Ctkd.Images

/// An image that cannot be read or decoded.
type PhotoFault = { Name: string; Reason: string }

/// How many images a class has.
type PhotoClass = { Name: string; Train: int; Val: int }

/// How many images have a format.
type PhotoCount = { Format: string; Images: int }

/// Pixels of an image.
type PhotoSize = { Width: int; Height: int }

/// What `ctkd data check` finds.
type PhotoReport = {
    /// The folder or pack.
    Path: string
    Images: int
    Bytes: int64
    Train: int
    /// Nothing where there is no validation.
    Val: int option
    Classes: PhotoClass list
    /// Images of the largest class to train with for one of the smallest.
    Imbalance: float option
    Formats: PhotoCount list
    /// By their pixels.
    Smallest: PhotoSize option
    Median: PhotoSize option
    Largest: PhotoSize option
    /// What keeps it from being trained with.
    Problems: string list
    Undecodable: PhotoFault list
    /// Groups of files with the same bytes that are in both train and validation: accuracies would be too high.
    DuplicatesAcross: string list list
    /// Groups with the same bytes in one of them.
    DuplicatesWithin: string list list
    /// Images that EXIF turns, and that are used as they are stored.
    Rotated: string list
    /// Images of another format than their name says.
    Misnamed: string list
    /// Files that are no images.
    Others: string list
    Warnings: string list
}

/// Looks at every photograph of a folder or pack.
[<RequireQualifiedAccess>]
module PhotoCheck =

    /// What one file is.
    [<NoComparison; NoEquality>]
    type private Look =
        | Good of PhotoHeader * hash: string
        | Bad of reason: string

    let private extensionsOf (format: PhotoFormat) : string list =
        match format with
        | PhotoFormat.Jpeg -> [ ".jpg"; ".jpeg" ]
        | other -> [ "." + $"{other}".ToLowerInvariant() ]

    let private isMisnamed (path: string) (format: PhotoFormat) : bool =
        let extension = (string (Path.GetExtension path)).ToLowerInvariant()
        extension <> "" && not (List.contains extension (extensionsOf format))

    /// A thread's buffers.
    [<NoComparison; NoEquality>]
    type private Eye = { Decoder: Decoder; mutable File: byte[]; mutable Pixels: byte[] }

    let private look (source: IPhotoSource) (eye: Eye) (image: int) : Look =
        try
            let mutable file, pixels = eye.File, eye.Pixels
            let length = source.Read(image, &file)
            eye.File <- file
            let bytes = ReadOnlySpan(file, 0, length)
            let mutable height, width = 0, 0
            eye.Decoder.Decode(bytes, &pixels, &height, &width)
            eye.Pixels <- pixels
            Good(Decoder.ReadHeader bytes, Convert.ToHexString(SHA256.HashData bytes))
        with :? PhotoException as problem ->
            Bad problem.Message

    let private lookAtAll (threads: int) (tick: unit -> unit) (source: IPhotoSource) : Look[] =
        let looks = Array.create source.Count (Bad "it was not looked at")

        Parallel.For(
            0,
            source.Count,
            ParallelOptions(MaxDegreeOfParallelism = threads),
            (fun () -> { Decoder = new Decoder(); File = [||]; Pixels = [||] }),
            (fun image (_: ParallelLoopState) (eye: Eye) ->
                looks[image] <- look source eye image
                tick ()
                eye
            ),
            (fun eye -> eye.Decoder.Dispose())
        )
        |> ignore

        looks

    let private groups (named: (string * string) seq) : string list list =
        named
        |> Seq.groupBy fst
        |> Seq.map (fun (_, same) -> same |> Seq.map snd |> List.ofSeq)
        |> Seq.filter (fun group -> group.Length > 1)
        |> List.ofSeq

    let private counts (files: PhotoFiles) : Map<string, int> =
        let classes = Array.ofList files.Classes

        files.Labels
        |> Array.filter (fun label -> label >= 0)
        |> Array.countBy id
        |> Array.map (fun (label, count) -> classes[label], count)
        |> Map.ofArray

    let private classes (tree: PhotoTree) : PhotoClass list =
        let train = counts tree.Train
        let validation = tree.Val |> Option.map counts |> Option.defaultValue Map.empty
        let count (name: string) = Map.tryFind name >> Option.defaultValue 0

        tree.Train.Classes @ (tree.Val |> Option.map _.Classes |> Option.defaultValue [])
        |> List.distinct
        |> List.map (fun name -> { Name = name; Train = count name train; Val = count name validation })

    /// <summary>Decodes every image, and says what there is and what is wrong.</summary>
    /// <param name="threads">Images that are decoded at once.</param>
    /// <param name="progress">Is told how many images are done, and of how many; from several threads.</param>
    /// <param name="path">A folder or a pack.</param>
    let run (threads: int) (progress: int -> int -> unit) (path: string) : Result<PhotoReport, Error> =
        Photos.checkDecoder ()
        |> Result.bind (fun () -> Photos.tree path)
        |> Result.map (fun (tree, open') ->
            let sets = tree.Train :: Option.toList tree.Val
            let total = sets |> List.sumBy _.Paths.Length
            let isDone = ref 0
            let tick () = progress (Interlocked.Increment isDone) total

            let seen = [
                for files in sets do
                    let source = open' files
                    let looks = lookAtAll threads tick source

                    (match source with
                     | :? IDisposable as held -> held.Dispose()
                     | _ -> ())

                    files, looks
            ]

            let all = [|
                for files, looks in seen do
                    yield! Array.zip files.Paths looks
            |]

            let good =
                all
                |> Array.choose (fun (name, look) ->
                    match look with
                    | Good(header, hash) -> Some(name, header, hash)
                    | Bad _ -> None
                )

            let hashes (looks: (PhotoFiles * Look[]) list) =
                seq {
                    for files, looks in looks do
                        for name, look in Seq.zip files.Paths looks do
                            match look with
                            | Good(_, hash) -> hash, name
                            | Bad _ -> ()
                }

            let across =
                match seen with
                | [ train; validation ] ->
                    let inTrain = HashSet(hashes [ train ] |> Seq.map fst)
                    let inBoth = HashSet(hashes [ validation ] |> Seq.map fst |> Seq.filter inTrain.Contains)
                    hashes seen |> Seq.filter (fst >> inBoth.Contains) |> groups
                | _ -> []

            let bySize =
                good
                |> Array.map (fun (_, header, _) -> header)
                |> Array.sortBy (fun header -> int64 header.Width * int64 header.Height, header.Width)

            let sizeAt (place: int -> int) =
                if bySize.Length = 0 then
                    None
                else
                    let header = bySize[place bySize.Length]
                    Some { Width = header.Width; Height = header.Height }

            let classes = classes tree
            let inTrain = classes |> List.map _.Train |> List.filter (fun count -> count > 0)

            {
                Path = path
                Images = total
                Bytes = sets |> List.sumBy (fun files -> Array.sum files.Lengths)
                Train = tree.Train.Paths.Length
                Val = tree.Val |> Option.map _.Paths.Length
                Classes = classes
                Imbalance =
                    if inTrain.IsEmpty then
                        None
                    else
                        Some(float (List.max inTrain) / float (List.min inTrain))
                Formats =
                    good
                    |> Array.countBy (fun (_, header, _) -> header.Format)
                    |> Array.sortByDescending snd
                    |> Array.map (fun (format, count) -> { Format = $"{format}"; Images = count })
                    |> List.ofArray
                Smallest = sizeAt (fun _ -> 0)
                Median = sizeAt (fun count -> count / 2)
                Largest = sizeAt (fun count -> count - 1)
                Problems = PhotoFolder.problems tree |> List.map (fun problem -> $"{problem.What}: {problem.Next}")
                Undecodable = [
                    for name, look in all do
                        match look with
                        | Bad reason -> { Name = name; Reason = reason }
                        | Good _ -> ()
                ]
                DuplicatesAcross = across
                DuplicatesWithin = seen |> List.collect (fun set -> groups (hashes [ set ]))
                Rotated = [
                    for name, header, _ in good do
                        if header.Orientation <> 1 then name
                ]
                Misnamed = [
                    for name, header, _ in good do
                        if isMisnamed name header.Format then name
                ]
                Others = tree.Others
                Warnings = PhotoFolder.warnings tree
            }
        )

    /// Whether it can be trained with as it is.
    let isFine (report: PhotoReport) : bool = report.Problems.IsEmpty && report.Undecodable.IsEmpty

    /// The report as lines; of long lists the first `most` entries.
    let lines (most: int) (r: PhotoReport) : string list =
        let printable = Files.printable

        let listed (title: string) (rows: string list) = [
            if not rows.IsEmpty then
                $"{title}: {rows.Length}"

                for row in List.truncate most rows do
                    $"  {row}"

                if rows.Length > most then
                    $"  and {rows.Length - most} more; all of them with --json"
        ]

        let size (s: PhotoSize option) =
            match s with
            | Some s -> $"{s.Width} x {s.Height}"
            | None -> "-"

        let group (names: string list) = names |> List.map printable |> String.concat ", "

        [
            let validation =
                match r.Val with
                | Some count -> $"{count} to validate with"
                | None -> "no validation"

            $"{printable r.Path}: {r.Images} images, {r.Bytes:N0} bytes; {r.Train} to train with, {validation}"
            $"classes: {r.Classes.Length}"

            match r.Imbalance with
            | Some ratio -> $"largest class : smallest class = {ratio:F1} : 1"
            | None -> ()

            let formats = r.Formats |> List.map (fun row -> $"{row.Images} {row.Format}") |> String.concat ", "
            if formats <> "" then $"formats: {formats}"
            $"pixels: smallest {size r.Smallest}, median {size r.Median}, largest {size r.Largest}"

            yield!
                listed
                    "no decoding"
                    (r.Undecodable |> List.map (fun fault -> $"{printable fault.Name}: {fault.Reason}"))

            yield! listed "the same bytes in train and validation" (r.DuplicatesAcross |> List.map group)
            yield! listed "the same bytes twice" (r.DuplicatesWithin |> List.map group)

            yield!
                listed
                    "turned by EXIF, which is ignored as the published pipelines do"
                    (r.Rotated |> List.map printable)

            yield! listed "another format than the name says (harmless)" (r.Misnamed |> List.map printable)
            yield! listed "no images" (r.Others |> List.map printable)
            yield! r.Warnings |> List.map (fun text -> $"warning: {text}")
            yield! r.Problems |> List.map (fun text -> $"problem: {text}")
        ]
