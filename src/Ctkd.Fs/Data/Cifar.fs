namespace Ctkd.Fs

open System
open System.IO

/// Reads CIFAR-10 and CIFAR-100 from a folder, in the official binary or Python format.
[<RequireQualifiedAccess>]
module Cifar =
    /// A published archive: its name, size and MD5, and the folder it unpacks to.
    type private Archive = {
        File: string
        Size: int64
        Md5: string
        Folder: string
        Train: string list
        Test: string
    }

    /// Number of training and test images, the same in both sets.
    let private trainImages, private testImages = 50_000, 10_000

    /// A data set. A binary record is the coarse label, if any, the label and the image.
    type private Family = {
        Name: string
        Classes: int
        CoarseClasses: int option
        LabelField: string
        Binary: Archive
        Python: Archive
        Mean: float list
        Std: float list
    }

    let private side = 32
    let private imageSize = 3 * side * side
    let private page = "https://www.cs.toronto.edu/~kriz/cifar.html"

    let private citation =
        "A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, technical report"

    let private cifar10 = {
        Name = "CIFAR-10"
        Classes = 10
        CoarseClasses = None
        LabelField = "labels"
        Binary = {
            File = "cifar-10-binary.tar.gz"
            Size = 170052171L
            Md5 = "c32a1d4ab5d03f1284b67883e8d87530"
            Folder = "cifar-10-batches-bin"
            Train = [ for i in 1..5 -> $"data_batch_{i}.bin" ]
            Test = "test_batch.bin"
        }
        Python = {
            File = "cifar-10-python.tar.gz"
            Size = 170498071L
            Md5 = "c58f30108f718f92721af3b95e74349a"
            Folder = "cifar-10-batches-py"
            Train = [ for i in 1..5 -> $"data_batch_{i}" ]
            Test = "test_batch"
        }
        Mean = [ 0.4914; 0.4822; 0.4465 ]
        Std = [ 0.2470; 0.2435; 0.2616 ]
    }

    let private cifar100 = {
        Name = "CIFAR-100"
        Classes = 100
        CoarseClasses = Some 20
        LabelField = "fine_labels"
        Binary = {
            File = "cifar-100-binary.tar.gz"
            Size = 168513733L
            Md5 = "03b5dce01913d631647c71ecec9e9cb8"
            Folder = "cifar-100-binary"
            Train = [ "train.bin" ]
            Test = "test.bin"
        }
        Python = {
            File = "cifar-100-python.tar.gz"
            Size = 169001437L
            Md5 = "eb9058c3a382ffc7106e4002c42a8d85"
            Folder = "cifar-100-python"
            Train = [ "train" ]
            Test = "test"
        }
        Mean = [ 0.5071; 0.4867; 0.4408 ]
        Std = [ 0.2675; 0.2565; 0.2761 ]
    }

    /// Advice for missing or wrong files: where they are published, and how to recognise them.
    let private fetch (family: Family) : string =
        let facts (archive: Archive) = $"{archive.File} ({archive.Size} bytes, MD5 {archive.Md5})"
        $"fetch {facts family.Python} or {facts family.Binary} from {page} and unpack it there with tar -xzf"

    let private damaged (family: Family) (path: string) (reason: string) : Error =
        Error.create Damaged $"'{Path.GetFileName path}' is no {family.Name} file: {reason}" path (fetch family)

    // ---- binary files

    let private wholeRecords (family: Family) (path: string) (bytes: byte[]) : Result<byte[], Error> =
        let record = (if family.CoarseClasses.IsSome then 2 else 1) + imageSize

        match bytes.Length % record with
        | 0 -> Ok bytes
        | rest ->
            let found = $"it has {bytes.Length} bytes, {bytes.Length / record} records and {rest} bytes over"
            Error(damaged family path $"{found}; expected are whole records of {record} bytes")

    let private checkCoarse (family: Family) (path: string) (labels: byte[]) : Result<unit, Error> =
        let classes = defaultArg family.CoarseClasses 256

        match labels |> Array.tryFindIndex (fun label -> int label >= classes) with
        | None -> Ok()
        | Some i ->
            let reason = $"the coarse label of record {i} (from 0) is {labels[i]}, allowed are 0 to {classes - 1}"

            Error(damaged family path reason)

    let private checkLabels (family: Family) (path: string) (labels: int[]) : Result<unit, Error> =
        match labels |> Array.tryFindIndex (fun label -> label < 0 || label >= family.Classes) with
        | None -> Ok()
        | Some i ->
            let reason = $"the label of record {i} (from 0) is {labels[i]}, allowed are 0 to {family.Classes - 1}"

            Error(damaged family path reason)

    let private images (family: Family) (name: string) (pixels: byte[]) (labels: int[]) : ImageSet = {
        Name = name
        Classes = family.Classes
        Channels = 3
        Height = side
        Width = side
        Images = Pixels.InMemory pixels
        Labels = labels
    }

    let private ofRecords (family: Family) (path: string) (bytes: byte[]) : Result<ImageSet, Error> =
        let header = if family.CoarseClasses.IsSome then 2 else 1
        let record = header + imageSize
        let column i = Array.init (bytes.Length / record) (fun r -> bytes[r * record + i])
        let pixels = Array.zeroCreate<byte>(bytes.Length / record * imageSize)
        let labels = column (header - 1) |> Array.map int

        for r in 0 .. labels.Length - 1 do
            Array.Copy(bytes, r * record + header, pixels, r * imageSize, imageSize)

        checkCoarse family path (column 0)
        |> Result.bind (fun () -> checkLabels family path labels)
        |> Result.map (fun () -> images family path pixels labels)

    let private readBinary (family: Family) (path: string) : Result<ImageSet, Error> =
        Files.read path |> Result.bind (wholeRecords family path) |> Result.bind (ofRecords family path)

    // ---- Python files

    let private pixelsOf (value: PickleValue) : Result<byte[], string> =
        match PickleValue.field "data" value |> Option.map Numpy.byteMatrix with
        | None -> Error "it has no entry 'data'"
        | Some(Error reason) -> Error reason
        | Some(Ok(_, columns, bytes)) when columns = imageSize -> Ok(bytes.ToArray())
        | Some(Ok(_, columns, _)) -> Error $"its images have {columns} bytes, expected are {imageSize}"

    let private labelsOf (family: Family) (value: PickleValue) : Result<int[], string> =
        let small label = label >= 0L && label <= 255L

        match PickleValue.field family.LabelField value |> Option.bind PickleValue.wholes with
        | None -> Error $"it has no list of integers '{family.LabelField}'"
        // Labels that do not fit a byte become -1, which is refused with its record number.
        | Some labels -> Ok(labels |> Array.map (fun label -> if small label then int label else -1))

    let private ofPickle (family: Family) (path: string) (value: PickleValue) : Result<ImageSet, Error> =
        match pixelsOf value, labelsOf family value with
        | Error reason, _
        | _, Error reason -> Error(damaged family path reason)
        | Ok pixels, Ok labels when pixels.Length <> labels.Length * imageSize ->
            Error(damaged family path $"it has {pixels.Length / imageSize} images and {labels.Length} labels")
        | Ok pixels, Ok labels ->
            checkLabels family path labels |> Result.map (fun () -> images family path pixels labels)

    let private readPython (family: Family) (path: string) : Result<ImageSet, Error> =
        Files.read path
        |> Result.bind (
            Pickle.parse Numpy.allowed path >> Result.mapError (fun error -> { error with Next = fetch family })
        )
        |> Result.bind (ofPickle family path)

    // ---- folders

    [<ReferenceEquality>]
    type private Layout = {
        Folder: string
        Files: Archive
        Read: Family -> string -> Result<ImageSet, Error>
    }

    let private layouts (family: Family) (folder: string) : Layout list = [
        for archive, read in [ family.Binary, readBinary; family.Python, readPython ] do
            for place in [ folder; Path.Combine(folder, archive.Folder) ] do
                { Folder = place; Files = archive; Read = read }
    ]

    let private present (layout: Layout) : int =
        layout.Files.Test :: layout.Files.Train
        |> List.filter (fun file -> File.Exists(Path.Combine(layout.Folder, file)))
        |> List.length

    /// Returns the layout with the most files present.
    let private find (family: Family) (folder: string) : Result<Layout, Error> =
        let best = layouts family folder |> List.maxBy present

        if present best > 0 then
            Ok best
        else
            let state = if Directory.Exists folder then "holds none of its files" else "does not exist"
            let what = $"there is no {family.Name}: the folder '{folder}' {state}"
            Error.fail Missing what folder (fetch family)

    let private readFile (family: Family) (layout: Layout) (file: string) : Result<ImageSet, Error> =
        let path = Path.Combine(layout.Folder, file)

        if File.Exists path then
            layout.Read family path
        else
            Error.fail Missing $"{family.Name} is not complete: '{file}' is missing" path (fetch family)

    let private readAll
        (family: Family)
        (layout: Layout)
        (name: string)
        (files: string list)
        : Result<ImageSet, Error> =
        let add (sets: Result<ImageSet list, Error>) (file: string) =
            sets |> Result.bind (fun before -> readFile family layout file |> Result.map (fun set -> set :: before))

        List.fold add (Ok []) files
        |> Result.map List.rev
        |> Result.bind (fun sets ->
            let pixels, labels =
                sets |> List.map ImageSet.bytes |> Array.concat, sets |> List.map _.Labels |> Array.concat

            ImageSet.create layout.Folder (images family $"{family.Name} {name}" pixels labels)
        )

    let private read (data: string) (family: Family) (folder: string) : Result<Splits, Error> =
        find family folder
        |> Result.bind (fun layout ->
            readAll family layout "train" layout.Files.Train
            |> Result.bind (fun train ->
                readAll family layout "test" [ layout.Files.Test ]
                |> Result.map (fun test -> {
                    Train = train
                    Validation = None
                    Test = test
                    ClassNames = ClassNames.ofData data
                    Mean = family.Mean
                    Std = family.Std
                    Pad = 4
                    Flip = true
                    Warnings = []
                    Citation = citation
                })
            )
        )

    /// Refuses an incomplete set: a copy that stopped between two records looks valid otherwise.
    let private whole (family: Family) (folder: string) (splits: Splits) : Result<Splits, Error> =
        match ImageSet.count splits.Train, ImageSet.count splits.Test with
        | train, test when (train, test) = (trainImages, testImages) -> Ok splits
        | train, test ->
            let what =
                $"{family.Name} is not complete: its files hold {train} training and {test} test images, not {trainImages} and {testImages}"

            let own = "; images of your own are read with --data file"
            Error.fail Damaged what folder (fetch family + own)

    /// Reads CIFAR-10 files with any number of records, from a folder as for `load10`.
    let read10 (folder: string) : Result<Splits, Error> = read "cifar10" cifar10 folder

    /// Reads CIFAR-100 files with any number of records and their 100 fine labels.
    let read100 (folder: string) : Result<Splits, Error> = read "cifar100" cifar100 folder

    /// Loads all of CIFAR-10 from a folder that contains its files, or the folder its archive unpacks to.
    let load10 (folder: string) : Result<Splits, Error> = read10 folder |> Result.bind (whole cifar10 folder)

    /// Loads all of CIFAR-100 with its 100 fine labels, from a folder as for `load10`.
    let load100 (folder: string) : Result<Splits, Error> = read100 folder |> Result.bind (whole cifar100 folder)
