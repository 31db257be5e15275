namespace Ctkd.Fs

open System
open System.IO
open Ctkd.Images

/// Finds photographs in folders: DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/*, or images without classes.
[<RequireQualifiedAccess>]
module PhotoFolder =

    /// What the folder for validation may be called; the first that is there counts.
    let private validationNames = [ "val"; "valid"; "validation"; "test" ]

    let private extensions = [ ".jpg"; ".jpeg"; ".png"; ".webp"; ".bmp"; ".gif" ]

    /// Deeper folders are not read.
    let private mostDepth = 64

    let private layout =
        "put images into DIR/train/CLASS/ and DIR/val/CLASS/, or into DIR/CLASS/: JPEG, PNG, WebP, BMP or GIF"

    let private isHidden (name: string) : bool = name.StartsWith '.'

    let private isLink (entry: FileSystemInfo) : bool = not (isNull entry.LinkTarget)

    /// Whether a file begins as an image does. One that may not be read is none; those that are named as images are listed
    /// without a look inside, and reading them tells.
    let private beginsAsImage (path: string) : bool =
        try
            use file = File.OpenHandle path
            let start = Array.zeroCreate<byte> PhotoFormats.Enough
            let read = RandomAccess.Read(file, start.AsSpan(), 0L)
            PhotoFormats.Of(ReadOnlySpan(start, 0, read)) <> PhotoFormat.Other
        with
        | :? UnauthorizedAccessException
        | :? IOException -> false

    /// Where the bytes of a file lie: a link leads there. Nothing where it leads nowhere, or round.
    let private target (entry: FileSystemInfo) : string option =
        try
            let path = if isLink entry then (nonNull (entry.ResolveLinkTarget true)).FullName else entry.FullName
            if File.Exists path then Some path else None
        with :? IOException ->
            None

    /// What is below a folder.
    [<NoComparison; NoEquality>]
    type private Walk = { Images: ResizeArray<struct (string * int64)>; Others: ResizeArray<string> }

    let private addFile (walk: Walk) (relative: string) (entry: FileSystemInfo) : unit =
        let isImageByName =
            List.exists (fun (e: string) -> e.Equals(entry.Extension, StringComparison.OrdinalIgnoreCase)) extensions

        match target entry with
        | Some path when not (Files.isFile path) -> walk.Others.Add relative
        | Some path when isImageByName || beginsAsImage path ->
            walk.Images.Add(struct (relative, FileInfo(path).Length))
        // A link that leads nowhere is an image that cannot be read.
        | None when isImageByName -> walk.Images.Add(struct (relative, 0L))
        | _ -> walk.Others.Add relative

    /// The path of a folder without links, of which so many are followed.
    let rec private withoutLinks (links: int) (path: string) : string =
        match Path.GetDirectoryName path with
        | null -> path
        | parent ->
            let parent = withoutLinks links parent
            let inside = Path.Combine(parent, string (Path.GetFileName path))

            match DirectoryInfo(inside).LinkTarget with
            | null -> inside
            | _ when links = 0 -> inside
            | target -> withoutLinks (links - 1) (Path.GetFullPath(Path.Combine(parent, target)))

    /// Adds what is below a folder. `above` holds the folders that led here, as they are without links.
    let rec private visit (walk: Walk) (above: string list) (relative: string) (folder: DirectoryInfo) : unit =
        let real =
            match above with
            | [] -> withoutLinks 40 folder.FullName
            | parent :: _ when isLink folder -> withoutLinks 40 (Path.Combine(parent, folder.Name))
            | parent :: _ -> Path.Combine(parent, folder.Name)

        // A link to a folder that it lies in would go on for ever.
        if not (List.contains real above) && above.Length < mostDepth then
            for entry in folder.EnumerateFileSystemInfos() do
                if not (isHidden entry.Name) then
                    let name = if relative = "" then entry.Name else $"{relative}/{entry.Name}"

                    match entry with
                    | :? DirectoryInfo as inner -> visit walk (real :: above) name inner
                    | _ when isLink entry && Directory.Exists entry.FullName ->
                        visit walk (real :: above) name (DirectoryInfo entry.FullName)
                    | _ -> addFile walk name entry

    let private foldersIn (folder: string) : string list =
        Directory.GetDirectories folder
        |> Array.map (fun path -> string (Path.GetFileName path))
        |> Array.filter (isHidden >> not)
        |> List.ofArray
        |> List.sortWith ByteOrder.compare

    /// The images below a folder of classes; `under` is the folder's place below the root.
    let private collect
        (root: string)
        (under: string)
        (leaveOut: string list)
        (others: ResizeArray<string>)
        : PhotoFiles =
        let folder = if under = "" then root else Path.Combine(root, under)
        let walk = { Images = ResizeArray(); Others = others }
        visit walk [] under (DirectoryInfo folder)
        let skip = if under = "" then 0 else under.Length + 1
        let classes = foldersIn folder |> List.except leaveOut
        let labels = classes |> List.mapi (fun i name -> name, i) |> dict

        let images =
            walk.Images.ToArray()
            |> Array.map (fun struct (path, length) ->
                let inside = path.Substring skip

                let label =
                    match inside.IndexOf '/' with
                    | -1 -> -1
                    | slash ->
                        match labels.TryGetValue(inside.Substring(0, slash)) with
                        | true, label -> label
                        | _ -> -1

                struct (label, path, length)
            )

        images
        |> Array.sortInPlaceWith (fun (struct (label, path, _)) (struct (otherLabel, other, _)) ->
            if label <> otherLabel then label.CompareTo otherLabel else ByteOrder.compare path other
        )

        {
            Root = root
            Classes = classes
            Paths = images |> Array.map (fun struct (_, path, _) -> path)
            Lengths = images |> Array.map (fun struct (_, _, length) -> length)
            Labels = images |> Array.map (fun struct (label, _, _) -> label)
        }

    let private found (root: string) : PhotoTree =
        let others = ResizeArray<string>()
        let folders = foldersIn root
        let validation = validationNames |> List.tryFind (fun name -> List.contains name folders)
        let hasTrain = List.contains "train" folders

        // Without a folder for validation, "train" may be a class: photographs of trains.
        let isSplit =
            hasTrain && (validation.IsSome || not (List.isEmpty (foldersIn (Path.Combine(root, "train")))))

        let train, validation =
            if isSplit then
                collect root "train" [] others, validation |> Option.map (fun name -> collect root name [] others)
            else
                collect root "" [] others, None

        {
            PhotoTree.Train = train
            Val = validation
            Others = others |> List.ofSeq |> List.sortWith ByteOrder.compare
        }

    /// Reads what is in a folder: which files are images, by their names or else by their first bytes, and of which classes.
    /// Links are followed, hidden files left out. Fails where the folder cannot be read or holds no image.
    let scan (folder: string) : Result<PhotoTree, Error> =
        if not (Directory.Exists folder) then
            Error.fail Missing $"there is no folder '{folder}'" folder "check the path"
        else
            try
                let tree = found (Path.GetFullPath folder)

                if tree.Train.Paths.Length = 0 then
                    Error.fail Missing "no images to train with are in this folder" folder layout
                else
                    Ok tree
            with
            | :? UnauthorizedAccessException as problem ->
                Error.fail
                    Damaged
                    $"the folder cannot be read: {problem.Message}"
                    folder
                    "give yourself the right to read it"
            | :? IOException as problem ->
                Error.fail Damaged $"the folder cannot be read: {problem.Message}" folder "check the disk and its links"

    /// Some names for a message.
    let private some (names: string list) : string =
        let more = if names.Length > 5 then $" and {names.Length - 5} more" else ""
        (names |> List.truncate 5 |> List.map (fun name -> $"'{Files.printable name}'") |> String.concat ", ") + more

    let private emptyClasses (files: PhotoFiles) : string list =
        let counts = Array.zeroCreate<int> files.Classes.Length
        files.Labels |> Array.iter (fun label -> if label >= 0 then counts[label] <- counts[label] + 1)
        files.Classes |> List.mapi (fun i name -> name, counts[i]) |> List.filter (snd >> (=) 0) |> List.map fst

    /// What keeps labelled images from being trained with.
    let problems (tree: PhotoTree) : Error list =
        let wrong what next = Error.create Damaged what tree.Train.Root next

        [
            match tree.Train.Classes with
            | [] -> wrong "the images are in no folders of classes" $"{layout}; or train without labels: --unlabelled"
            | [ only ] -> wrong $"there is one class only: {some [ only ]}" "add images of at least one other class"
            | _ -> ()

            match emptyClasses tree.Train with
            | [] -> ()
            | empty ->
                let next = "add images to these folders, or delete the folders"
                wrong $"no image to train with is in these classes: {some empty}" next

            match tree.Val with
            | Some validation ->
                match List.except tree.Train.Classes validation.Classes with
                | [] -> ()
                | extra ->
                    let next = "add images of them to train, or delete them from the validation"
                    wrong $"these classes are in the validation only: {some extra}" next

                if not (Array.exists (fun label -> label >= 0) validation.Labels) then
                    wrong "the folder for validation has no images in folders of classes" layout
            | None -> ()
        ]

    /// What is odd but does no harm.
    let warnings (tree: PhotoTree) : string list = [
        let strays = tree.Train.Labels |> Array.filter ((=) -1) |> Array.length

        if strays > 0 && not tree.Train.Classes.IsEmpty then
            $"{strays} images lie beside the folders of classes and are left out"

        match tree.Val with
        | Some validation ->
            let filled = List.except (emptyClasses validation) validation.Classes

            match List.except filled tree.Train.Classes with
            | [] -> ()
            | missing -> $"no image to validate with is in these classes: {some missing}"
        | None -> ()

        match tree.Others with
        | [] -> ()
        | others -> $"{others.Length} files are no images: {some others}"
    ]

    /// The images of a set at these places.
    let choose (places: int[]) (files: PhotoFiles) : PhotoFiles = {
        files with
            Paths = places |> Array.map (fun i -> files.Paths[i])
            Lengths = places |> Array.map (fun i -> files.Lengths[i])
            Labels = places |> Array.map (fun i -> files.Labels[i])
    }

    let private placesWhere (condition: int -> bool) (files: PhotoFiles) : int[] =
        [| 0 .. files.Labels.Length - 1 |] |> Array.filter (fun i -> condition files.Labels[i])

    let private labelled (files: PhotoFiles) : PhotoFiles = choose (placesWhere (fun label -> label >= 0) files) files

    /// Holds a share of each class out.
    let private holdOut (share: float) (seed: int) (files: PhotoFiles) : PhotoFiles * PhotoFiles =
        let rng = Rng.ofSeed seed |> Rng.split "validation"
        let isHeldOut = Array.zeroCreate<bool> files.Labels.Length

        for label, places in placesWhere (fun label -> label >= 0) files |> Array.groupBy (fun i -> files.Labels[i]) do
            let count = min (places.Length - 1) (int (Math.Round(share * float places.Length)))
            let order = Rng.split files.Classes[label] rng |> Rng.permutation places.Length
            order |> Array.truncate count |> Array.iter (fun i -> isHeldOut[places[int i]] <- true)

        let where (wanted: bool) =
            [| 0 .. files.Labels.Length - 1 |] |> Array.filter (fun i -> files.Labels[i] >= 0 && isHeldOut[i] = wanted)

        choose (where false) files, choose (where true) files

    let private sorted (files: PhotoFiles) : PhotoFiles =
        let places = [| 0 .. files.Labels.Length - 1 |]

        places
        |> Array.sortInPlaceWith (fun i j ->
            if files.Labels[i] <> files.Labels[j] then
                files.Labels[i].CompareTo files.Labels[j]
            else
                ByteOrder.compare files.Paths[i] files.Paths[j]
        )

        choose places files

    /// The images of a validation, labelled by the classes of the training.
    let private relabelled (classes: string list) (validation: PhotoFiles) : PhotoFiles =
        let place =
            validation.Classes |> List.map (fun name -> List.findIndex ((=) name) classes) |> Array.ofList

        let files = labelled validation

        sorted {
            files with
                Classes = classes
                Labels = files.Labels |> Array.map (fun label -> place[label])
        }

    /// <summary>
    /// The labelled images of a folder, to train and to test with. Where the folder has no validation of its own, a share of
    /// each class is held out, chosen by the seed; one image of each class at least stays to train with.
    /// </summary>
    /// <param name="share">The share that is held out, in [0, 1).</param>
    /// <param name="seed">Chooses which.</param>
    /// <param name="tree">What is in the folder.</param>
    let split (share: float) (seed: int) (tree: PhotoTree) : Result<PhotoSplits, Error> =
        match problems tree, tree.Val with
        | _ when not (share >= 0.0 && share < 1.0) ->
            Error.fail Usage $"the share for validation is {share}" "" "it takes 0 or more, and less than 1"
        | problem :: _, _ -> Result.Error problem
        | [], Some validation ->
            Ok {
                PhotoSplits.Train = labelled tree.Train
                Val = relabelled tree.Train.Classes validation
                Warnings = warnings tree
            }
        | [], None ->
            let train, validation = holdOut share seed tree.Train

            let without =
                match emptyClasses validation with
                | missing when share > 0.0 && not missing.IsEmpty -> [
                    $"too few images to hold any out are in these classes: {some missing}"
                  ]
                | _ -> []

            Ok {
                PhotoSplits.Train = train
                Val = validation
                Warnings = warnings tree @ without
            }

    /// All images of a folder to train with, without their labels; the validation keeps its own, and is empty where there is
    /// none.
    let unlabelled (tree: PhotoTree) : PhotoSplits =
        let train = tree.Train

        {
            PhotoSplits.Train = { train with Classes = []; Labels = Array.create train.Labels.Length -1 }
            Val =
                match tree.Val with
                | Some validation -> labelled validation
                | None -> choose [||] { train with Classes = [] }
            Warnings = warnings { tree with Train = { train with Classes = [] } }
        }
