namespace Ctkd.Fs

/// Which published model the weights in a file are of.
[<RequireQualifiedAccess>]
module Identify =
    /// The metadata that name a model and its number of classes in safetensors files that this library writes.
    let modelKey, classesKey = "model", "classes"

    /// The model that the file names. PyTorch's files are not believed: there an entry "model" is anything.
    let private named (file: WeightsFile) : string option =
        if file.IsSafetensors then
            file.Metadata
            |> List.tryFind (fun (key, name) -> key = modelKey && List.contains name Zoo.names)
            |> Option.map snd
        else
            None

    let private expected (model: Model) : Weights.Expected list =
        Weights.expected DType.Float32 (Model.declarations model)

    /// The published model for as many classes as the file's classifier has, else as it was published for.
    let private forFile (file: WeightsFile) (published: Published) : Model =
        let model = published.Create published.Classes

        (WeightsFile.find (expected model) file).Tensors
        |> List.tryPick (fun tensor ->
            match tensor.Shape with
            | [ classes; _ ] when
                tensor.Name = model.Classifier.Weight && classes >= 2L && classes <= 1_000_000L
                ->
                Some(published.Create(int classes))
            | _ -> None
        )
        |> Option.defaultValue model

    /// More tensors than any of the zoo's models has, several times over: nothing is looked for among so many.
    let private tooMany = 5_000

    /// The zoo's models for as many classes as the file has, and how far the weights are from each: the number of tensors
    /// that are missing, surplus or of another shape.
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

    /// The published models that the weights fit, of any number of classes.
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

    /// The model that the user named, or that the file names, or else the only one that the weights fit.
    let model (byUser: string option) (file: WeightsFile) : Result<Model, Error> =
        match byUser |> Option.orElse (named file) with
        | Some name -> Zoo.published name |> Result.map (forFile file)
        | None ->
            let distances = distances file

            match exact distances with
            | [ only ] -> Ok only
            | _ -> Error(undecided file distances)
