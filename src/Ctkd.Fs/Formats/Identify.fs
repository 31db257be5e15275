namespace Ctkd.Fs

/// Finds the published model that the weights in a file belong to.
[<RequireQualifiedAccess>]
module Identify =
    /// The metadata keys for a model's name and number of classes in safetensors files of this library.
    let modelKey, classesKey = "model", "classes"

    /// Returns the model that the file names. PyTorch files are not trusted: their entry "model" can be anything.
    let private named (file: WeightsFile) : string option =
        if file.IsSafetensors then
            file.Metadata
            |> List.tryFind (fun (key, name) -> key = modelKey && List.contains name Zoo.names)
            |> Option.map snd
        else
            None

    let private expected (model: Model) : Weights.Expected list =
        Weights.expected DType.Float32 (Model.declarations model)

    /// The most classes of a model.
    let maxClasses = 1_000_000

    /// Creates the published model with the file's number of classes if known, else with its published number.
    let private forFile (file: WeightsFile) (published: Published) : Model =
        let model = published.Create published.Classes

        (WeightsFile.find (expected model) file).Tensors
        |> List.tryPick (fun tensor ->
            match tensor.Shape with
            | [ classes; _ ] when tensor.Name = model.Classifier.Weight && classes >= 2L && classes <= int64 maxClasses ->
                Some(published.Create(int classes))
            | _ -> None
        )
        |> Option.defaultValue model

    /// Several times more tensors than any model of the zoo has, and than many of them have: files with more are not matched.
    let private tooMany, private tooManyInAll = 5_000, 20_000

    /// A model with the file's number of classes, and how the weights differ from it.
    [<ReferenceEquality>]
    type private Match = {
        Model: Model
        Found: StateDict
        /// The number of tensors that are missing or of another shape.
        Differing: int
        /// The number of tensors that the model lacks.
        Extra: int
    }

    /// How well each of the zoo's models fits.
    let private matches (file: WeightsFile) : Match list =
        if file.Found.Tensors.Length > tooMany || TorchEntry.count file.Root > tooManyInAll then
            []
        else
            Zoo.models
            |> List.map (fun published ->
                let model = forFile file published
                let expected = expected model
                let found = WeightsFile.find expected file

                {
                    Model = model
                    Found = found
                    Differing = (Weights.differing expected found.Tensors).Length
                    Extra = (Weights.extra expected found.Tensors).Length
                }
            )

    /// The models that fit. Of several networks in one file that fit different models, those that would be taken. With
    /// `ignoreExtra` the models that lack the fewest of the tensors.
    let private exact (ignoreExtra: bool) (file: WeightsFile) (matches: Match list) : Model list =
        let whole = matches |> List.filter (fun m -> m.Differing = 0 && (ignoreExtra || m.Extra = 0))
        let fewest = whole |> List.map _.Extra |> List.fold min System.Int32.MaxValue
        let best = whole |> List.filter (fun m -> m.Extra = fewest)
        let place (found: StateDict) = found.Under, found.Prefix
        let taken = best |> List.filter (fun m -> place m.Found = place file.Found)
        (if taken.IsEmpty then best else taken) |> List.map _.Model

    /// Returns the published models that the weights fit, with any number of classes.
    let fitting (file: WeightsFile) : Model list = matches file |> exact false file

    let private undecided (ignoreExtra: bool) (file: WeightsFile) (matches: Match list) : Error =
        let what, next =
            match exact ignoreExtra file matches with
            | [] ->
                let nearest = matches |> List.sortBy (fun m -> m.Differing + m.Extra) |> List.truncate 2

                let near =
                    nearest
                    |> List.map (fun m -> $"{m.Model.Name} ({m.Differing + m.Extra} tensors differ)")
                    |> String.concat ", "

                let near = if near = "" then "" else $"nearest: {near}; "

                let extra =
                    match nearest with
                    | { Differing = 0; Extra = count } as m :: _ ->
                        $"; or leave the {count} that {m.Model.Name} lacks aside with --ignore-extra"
                    | _ -> ""

                // A tensor of the nearest model that is there and not read.
                let unread =
                    nearest
                    |> List.truncate 1
                    |> List.collect (fun m ->
                        let names = expected m.Model |> List.map _.Name |> Set.ofList

                        m.Found.Skipped |> List.filter (fun tensor -> names.Contains tensor.Name)
                    )

                match unread with
                | tensor :: _ ->
                    "the weights fit no model of the zoo; "
                    + $"'{Files.printable tensor.Stored}' is {UnreadTensor.describe tensor.What}, which is not read",
                    near + UnreadTensor.remedy tensor.Stored tensor.What
                | [] -> "the weights fit no model of the zoo", near + "name the model to see how they differ" + extra
            | several ->
                let names = several |> List.map _.Name |> String.concat ", "
                "the weights fit several models", $"name one of them: {names}"

        Error.create Mismatch what file.Path $"{next} (--model, of a teacher --teacher)"

    /// As `model`; with `ignoreExtra` the weights may hold tensors that the model lacks.
    let modelOf (ignoreExtra: bool) (byUser: string option) (file: WeightsFile) : Result<Model, Error> =
        match byUser |> Option.orElse (named file) with
        | Some name -> Zoo.published name |> Result.map (forFile file)
        | None ->
            let matches = matches file

            match exact ignoreExtra file matches with
            | [ only ] -> Ok only
            | _ -> Error(undecided ignoreExtra file matches)

    /// Returns the model named by the user, else by the file, else the only one that the weights fit.
    let model (byUser: string option) (file: WeightsFile) : Result<Model, Error> = modelOf false byUser file
