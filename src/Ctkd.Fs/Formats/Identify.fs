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

    /// Creates the published model with the file's number of classes if known, else with its published number.
    let private forFile (file: WeightsFile) (published: Published) : Model =
        let model = published.Create published.Classes

        (WeightsFile.find (expected model) file).Tensors
        |> List.tryPick (fun tensor ->
            match tensor.Shape with
            | [ classes; _ ] when tensor.Name = model.Classifier.Weight && classes >= 2L && classes <= 1_000_000L ->
                Some(published.Create(int classes))
            | _ -> None
        )
        |> Option.defaultValue model

    /// Several times more tensors than any model of the zoo has: files with more are not matched.
    let private tooMany = 5_000

    /// Returns the zoo's models with the file's number of classes, and their distances from the weights: the number of
    /// tensors that are missing, surplus or of another shape.
    let private distances (file: WeightsFile) : (int * Model) list =
        if file.Found.Tensors.Length > tooMany then
            []
        else
            Zoo.models
            |> List.map (fun published ->
                let model = forFile file published
                let expected = expected model
                Weights.distance expected (WeightsFile.find expected file).Tensors, model
            )

    let private exact (distances: (int * Model) list) : Model list =
        distances |> List.filter (fun (distance, _) -> distance = 0) |> List.map snd

    /// Returns the published models that the weights fit, with any number of classes.
    let fitting (file: WeightsFile) : Model list = distances file |> exact

    let private undecided (file: WeightsFile) (distances: (int * Model) list) : Error =
        let what, next =
            match exact distances with
            | [] ->
                let near =
                    distances
                    |> List.sortBy fst
                    |> List.truncate 2
                    |> List.map (fun (count, model) -> $"{model.Name} ({count} tensors differ)")
                    |> String.concat ", "

                let near = if near = "" then "" else $"nearest: {near}; "
                "the weights fit no model of the zoo", near + "name the model to see how they differ"
            | several ->
                let names = several |> List.map _.Name |> String.concat ", "
                "the weights fit several models", $"name one of them: {names}"

        Error.create Mismatch what file.Path $"{next} (--model, of a teacher --teacher)"

    /// Returns the model named by the user, else by the file, else the only one that the weights fit.
    let model (byUser: string option) (file: WeightsFile) : Result<Model, Error> =
        match byUser |> Option.orElse (named file) with
        | Some name -> Zoo.published name |> Result.map (forFile file)
        | None ->
            let distances = distances file

            match exact distances with
            | [ only ] -> Ok only
            | _ -> Error(undecided file distances)
