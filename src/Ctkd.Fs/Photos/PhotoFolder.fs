namespace Ctkd.Fs

open System
open System.IO

/// Finds photographs in folders: DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/*, or images without classes.
[<RequireQualifiedAccess>]
module PhotoFolder =

    /// What the folder for validation may be called; the first that is there counts.
    let private validationNames = [ "val"; "valid"; "validation"; "test" ]

    let private layout =
        "put images into DIR/train/CLASS/ and DIR/val/CLASS/, or into DIR/CLASS/: JPEG, PNG, WebP, BMP or GIF"

    /// The images of a folder of classes among those that were found; `under` is the folder's place below the root.
    let private collect (root: string) (under: string) (classes: string list) (found: FoundFiles) : PhotoFiles =
        let skip = if under = "" then 0 else under.Length + 1
        let labels = classes |> List.mapi (fun i name -> name, i) |> dict

        let images =
            found.Images.ToArray()
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

        let paths = images |> Array.map (fun struct (_, path, _) -> path)

        {
            Root = root
            Classes = classes
            Paths = paths
            Lengths = images |> Array.map (fun struct (_, _, length) -> length)
            Marks = paths |> Array.Parallel.map (fun path -> PhotoMark.ofFile (Path.Combine(root, path)))
            Labels = images |> Array.map (fun struct (label, _, _) -> label)
        }

    /// The folders for validation where no folder is called train. A class may be called test: it is one unless its folders
    /// are called as those beside it.
    let private withoutTrain (root: string) (folders: string list) : string list =
        let classes (name: string) = PhotoWalk.folders root name
        let isThere (name: string) = List.contains name folders && not (List.isEmpty (classes name))
        let sure = validationNames |> List.filter (fun name -> name <> "test" && isThere name)

        let others =
            List.except validationNames folders
            |> List.collect classes
            |> List.distinct
            |> List.sortWith ByteOrder.compare

        let isTest = isThere "test" && List.contains (classes "test") (others :: List.map classes sure)

        if isTest then sure @ [ "test" ] else sure

    /// The folder to train with ("" for all but those for validation), and the folders for validation, of which the first
    /// counts.
    let private parts (root: string) (folders: string list) : string * string list =
        if List.contains "train" folders then
            match validationNames |> List.filter (fun name -> List.contains name folders) with
            // Without a folder for validation, "train" may be a class: photographs of trains.
            | [] when List.isEmpty (PhotoWalk.folders root "train") -> "", []
            | validation -> "train", validation
        else
            "", withoutTrain root folders

    /// Folders, with a '/' at the end, and images that lie at the root.
    let private tops (found: FoundFiles) : string list =
        found.Images
        |> Seq.map (fun struct (path, _) -> path.Substring(0, path.IndexOf '/' + 1), path)
        |> Seq.map (fun (folder, path) -> if folder = "" then path else folder)
        |> Seq.distinct
        |> List.ofSeq

    let private found (root: string) : PhotoTree =
        let folders = PhotoWalk.folders root ""
        let train, validation = parts root folders
        let trainFound = PhotoWalk.below root train (if train = "" then validation else [])
        let valFound = validation |> List.tryHead |> Option.map (fun name -> name, PhotoWalk.below root name [])

        let unused =
            if train = "" then
                List.skip (min 1 validation.Length) validation
                |> List.filter (fun name -> (PhotoWalk.below root name []).Images.Count > 0)
                |> List.map (fun name -> name + "/")
            else
                tops (PhotoWalk.below root "" (train :: List.truncate 1 validation))

        let used = trainFound :: (valFound |> Option.map snd |> Option.toList)

        let sorted (files: FoundFiles -> ResizeArray<string>) =
            used |> List.collect (files >> List.ofSeq) |> List.sortWith ByteOrder.compare

        {
            PhotoTree.Train =
                let classes = if train = "" then List.except validation folders else PhotoWalk.folders root train

                collect root train classes trainFound
            Val = valFound |> Option.map (fun (name, files) -> collect root name (PhotoWalk.folders root name) files)
            Others = sorted _.Others
            Unused = List.sortWith ByteOrder.compare unused
            TooDeep = sorted _.TooDeep
        }

    let private guarded (folder: string) (read: string -> Result<'T, Error>) : Result<'T, Error> =
        if not (Directory.Exists folder) then
            Error.fail Missing $"there is no folder '{folder}'" folder "check the path"
        else
            try
                read (Path.GetFullPath folder)
            with
            | :? UnauthorizedAccessException as problem ->
                Error.fail
                    Damaged
                    $"the folder cannot be read: {problem.Message}"
                    folder
                    "give yourself the right to read it"
            | :? IOException as problem ->
                Error.fail Damaged $"the folder cannot be read: {problem.Message}" folder "check the disk and its links"

    /// Reads what is in a folder: which files are images, by their names or else by their first bytes, and of which classes.
    /// Links are followed, hidden files left out. Fails where the folder cannot be read or holds no image.
    let scan (folder: string) : Result<PhotoTree, Error> =
        guarded
            folder
            (fun root ->
                let tree = found root

                if tree.Train.Paths.Length = 0 then
                    Error.fail Missing "no images to train with are in this folder" folder layout
                else
                    Ok tree
            )

    /// Some names for a message.
    let private some (names: string list) : string =
        let more = if names.Length > 5 then $" and {names.Length - 5} more" else ""
        (names |> List.truncate 5 |> List.map (fun name -> $"'{Files.printable name}'") |> String.concat ", ") + more

    let private tooDeep (folders: string list) : string list =
        match folders with
        | [] -> []
        | folders -> [
            $"{folders.Length} folders lie more than {PhotoWalk.mostDepth} deep and are not read: {some folders}"
          ]

    /// The paths of all images below a folder, whatever its folders mean, in the order of their bytes; and what is left out,
    /// for the user to see. Fails as <c>scan</c> does.
    let images (folder: string) : Result<string[] * string list, Error> =
        guarded
            folder
            (fun root ->
                let found = PhotoWalk.below root "" []
                let paths = found.Images.ToArray() |> Array.map (fun struct (path, _) -> path)
                Array.sortInPlaceWith ByteOrder.compare paths

                if paths.Length = 0 then
                    Error.fail
                        Missing
                        "no images are in this folder"
                        folder
                        "give a folder of JPEG, PNG, WebP, BMP or GIF files"
                else
                    Ok(paths, tooDeep (found.TooDeep |> List.ofSeq |> List.sortWith ByteOrder.compare))
            )

    let private emptyClasses (files: PhotoFiles) : string list =
        let counts = Array.zeroCreate<int> files.Classes.Length
        files.Labels |> Array.iter (fun label -> if label >= 0 then counts[label] <- counts[label] + 1)
        files.Classes |> List.mapi (fun i name -> name, counts[i]) |> List.filter (snd >> (=) 0) |> List.map fst

    /// Whether a validation lies beside folders of which none is called train: their names are then no classes.
    let private lacksTrain (tree: PhotoTree) : bool =
        let isInTrain (path: string) = path.StartsWith("train/", StringComparison.Ordinal)
        tree.Val.IsSome && not (Array.exists isInTrain tree.Train.Paths)

    /// What keeps labelled images from being trained with.
    let problems (tree: PhotoTree) : Error list =
        let wrong what next = Error.create Damaged what tree.Train.Root next

        if lacksTrain tree then
            [
                wrong
                    $"there is a folder for validation, and none called train beside it but {some tree.Train.Classes}"
                    "call the folder with the classes to train with train: DIR/train/CLASS/; where the one for validation is a class, put its images right into it, into no folders"
            ]
        else

            [
                match tree.Train.Classes with
                | [] ->
                    wrong "the images are in no folders of classes" $"{layout}; or train without labels: --unlabelled"
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

        match tree.Unused with
        | [] -> ()
        | unused -> $"the images in these places are not used: {some unused}"

        yield! tooDeep tree.TooDeep

        match tree.Others with
        | [] -> ()
        | others -> $"{others.Length} files are no images: {some others}"
    ]

    /// The images of a set at these places.
    let choose (places: int[]) (files: PhotoFiles) : PhotoFiles = {
        files with
            Paths = places |> Array.map (fun i -> files.Paths[i])
            Lengths = places |> Array.map (fun i -> files.Lengths[i])
            Marks = places |> Array.map (fun i -> files.Marks[i])
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
