namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling

/// What a teacher's last layer gives.
[<RequireQualifiedAccess>]
type TeacherOutput =
    | Logits
    /// softmax of the logits; their logarithm is used as the logits.
    | Probabilities

/// How a teacher sees the student's images, and how its outputs become logits of the data's classes.
type TeacherView = {
    /// Height and width of the images that it sees; 0 for those of the data.
    Size: int
    /// Its normalisation per channel, pixels from 0 to 1; empty for the data's.
    Mean: float list
    Std: float list
    /// For each class of the data the number of the teacher's output; empty where the two agree.
    Order: int list
    Output: TeacherOutput
}

/// Wraps teachers.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TeacherView =

    /// The student's images and logits of the data's classes.
    let direct: TeacherView = { Size = 0; Mean = []; Std = []; Order = []; Output = TeacherOutput.Logits }

    /// The size of the images that the teacher sees, for images of the data.
    let seen (height: int) (width: int) (view: TeacherView) : int * int =
        if view.Size = 0 then height, width else view.Size, view.Size

    let private perChannel (values: float list) : float[] =
        match values with
        | [ one ] -> [| one; one; one |]
        | values -> Array.ofList values

    /// A tensor of numbers that belongs to no scope.
    let private kept (make: unit -> Tensor) : Tensor = Tensor.unscoped Seq.singleton make

    /// From the data's images, normalised with its mean and std, to those that the teacher sees:
    /// ((x std + mean) - teacher's mean) / teacher's std, resized.
    let internal input (device: Device) (mean: float list, std: float list) (view: TeacherView) : Tensor -> Tensor =
        let renormalise: Tensor -> Tensor =
            if view.Mean.IsEmpty || (perChannel view.Mean, perChannel view.Std) = (perChannel mean, perChannel std) then
                id
            else
                let number values =
                    kept (fun () -> Tensor.ofFloats DType.Float32 [ 1; 3; 1; 1 ] values |> Tensor.toDevice device)

                let m, s, own, ownStd = perChannel mean, perChannel std, perChannel view.Mean, perChannel view.Std
                let factor = number (Array.map2 (/) s ownStd)
                let shift = number (Array.init 3 (fun c -> (m[c] - own[c]) / ownStd[c]))

                fun x ->
                    let typed = Tensor.toType (Tensor.dtype x)
                    x * typed factor + typed shift

        let resize: Tensor -> Tensor =
            if view.Size = 0 then
                id
            else
                fun x ->
                    if Tensor.size 2 x = view.Size && Tensor.size 3 x = view.Size then
                        x
                    else
                        Tensor.resizeImage view.Size view.Size x

        resize >> renormalise

    /// The least probability that a logarithm is taken of: one of 0 in float32 would be minus infinity.
    let private least = 1e-30

    /// From the teacher's outputs to logits of the data's classes.
    let internal output (device: Device) (view: TeacherView) : Tensor -> Tensor =
        let logits: Tensor -> Tensor =
            match view.Output with
            | TeacherOutput.Logits -> id
            | TeacherOutput.Probabilities -> Tensor.clamp least 1.0 >> Tensor.log

        let ordered: Tensor -> Tensor =
            if view.Order.IsEmpty then
                id
            else
                let index =
                    kept (fun () ->
                        Tensor.ofInt64s [ view.Order.Length ] (view.Order |> List.map int64 |> Array.ofList)
                        |> Tensor.toDevice device
                    )

                Tensor.indexSelect 1 index

        logits >> ordered

    /// Refuses outputs that the teacher has not.
    let internal checkOrder (name: string) (classes: int) (view: TeacherView) : Result<unit, Error> =
        match view.Order |> List.tryFind (fun place -> place < 0 || place >= classes) with
        | None -> Ok()
        | Some place ->
            Error.fail
                Usage
                $"the class order names the output {place} of {name}, which has {classes}, from 0 to {classes - 1}"
                ""
                "give a number of an output for each class of the data, or a file of the teacher's class names"

    /// Whether the teacher sees other images than the student.
    let changesImages (mean: float list, std: float list) (view: TeacherView) : bool =
        view.Size <> 0
        || (not view.Mean.IsEmpty && (perChannel view.Mean, perChannel view.Std) <> (perChannel mean, perChannel std))

    /// The shape [C; H; W] of an image as the teacher sees it.
    let internal seenShape (view: TeacherView) (shape: int list) : int list =
        match shape with
        | [ channels; height; width ] ->
            let height, width = seen height width view
            [ channels; height; width ]
        | other -> other

    /// A text that decides the same wrapping, for hashes.
    let key (mean: float list, std: float list) (view: TeacherView) : string =
        let numbers (values: float list) = values |> List.map string |> String.concat " "
        let order = view.Order |> List.map string |> String.concat " "
        $"size {view.Size}, from {numbers mean} / {numbers std} to {numbers view.Mean} / {numbers view.Std}, order {order}, {view.Output}"

    // ---- class orders

    let private plain (name: string) : string = name.Trim().Replace('_', ' ').ToLowerInvariant()

    /// The most bytes of a file of class names.
    let private longest = 4_000_000L

    let private ofNames (path: string) (classNames: string list) : Result<int list, Error> =
        let wrong what next : Result<'T, Error> = Error.fail Usage what path next

        result {
            if classNames.IsEmpty then
                return! wrong "the data set has no class names to look up in this file" "give numbers, such as 2,0,1"

            if FileInfo(path).Length > longest then
                return! wrong $"a list of class names has at most {longest} bytes" "give a text file, one name a line"

            let! bytes = Files.read path

            let names =
                (Text.Encoding.UTF8.GetString bytes).Split('\n', StringSplitOptions.TrimEntries)
                |> List.ofArray
                |> List.rev
                |> List.skipWhile ((=) "")
                |> List.rev
                |> List.map plain

            match names |> List.countBy id |> List.tryFind (fun (_, count) -> count > 1) with
            | Some(name, _) ->
                return!
                    wrong $"the class '{Files.printable name}' is named twice" "name each of the teacher's outputs once"
            | None -> ()

            let places = names |> List.mapi (fun i name -> name, i) |> Map

            match classNames |> List.filter (fun name -> not (places.ContainsKey(plain name))) with
            | [] -> return classNames |> List.map (fun name -> places[plain name])
            | missing ->
                let some = missing |> List.truncate 5 |> List.map Files.printable |> String.concat ", "
                let near = Error.nearest names (plain missing.Head) |> List.map Files.printable |> String.concat ", "

                return!
                    wrong
                        $"{missing.Length} of the data's {classNames.Length} classes are not among the {names.Length} names: {some}"
                        $"write the data's names in the file; nearest to the first: {near}"
        }

    /// <summary>Reads a class order.</summary>
    /// <param name="text">A file with the class names of the teacher's outputs, one a line in their order; or numbers, for each
    /// class of the data that of the teacher's output, from 0.</param>
    /// <param name="classNames">The data's class names in the order of its labels; empty where none are known.</param>
    /// <returns>For each class of the data the number of the teacher's output.</returns>
    let orderOf (text: string) (classNames: string list) : Result<int list, Error> =
        if text = "" then
            Ok []
        elif File.Exists text then
            ofNames text classNames
        else
            match Numbers.items text |> Numbers.all Numbers.readWhole with
            | Ok numbers -> Ok numbers
            | Result.Error _ ->
                Error.fail
                    Missing
                    $"'{Files.printable text}' is no file of class names and no list of numbers"
                    ""
                    "give a text file with the teacher's class names, one a line, or numbers such as 2,0,1"
