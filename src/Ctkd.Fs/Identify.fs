namespace Ctkd.Fs

open System.Globalization

/// Which published model the weights in a file are of.
[<RequireQualifiedAccess>]
module Identify =
    /// The metadata that name a model and its number of classes in files that this library writes.
    let modelKey, classesKey = "model", "classes"

    let private entry (key: string) (file: WeightsFile) : string option =
        file.Metadata |> List.tryFind (fun (name, _) -> name = key) |> Option.map snd

    let private expected (model: Model) : Weights.Expected list =
        Weights.expected DType.Float32 (Model.declarations model)

    let private plausible (classes: int64) : int option =
        if classes >= 2L && classes <= 1_000_000L then Some(int classes) else None

    /// The published model for as many classes as the file's classifier has, else as it was published for.
    let private forFile (file: WeightsFile) (published: Published) : Model =
        let model = published.Create published.Classes

        let stated =
            entry classesKey file
            |> Option.bind (fun text ->
                match System.Int64.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture) with
                | true, classes -> plausible classes
                | _ -> None
            )

        let found () =
            (WeightsFile.find (expected model) file).Tensors
            |> List.tryPick (fun tensor ->
                match tensor.Shape with
                | [ classes; _ ] when tensor.Name = model.Classifier.Weight -> plausible classes
                | _ -> None
            )

        match stated |> Option.orElseWith found with
        | Some classes -> published.Create classes
        | None -> model

    /// How far the weights are from a model's: the number of tensors that are missing, surplus or of another shape.
    let private distance (file: WeightsFile) (model: Model) : int =
        let expected = expected model
        let stored = (WeightsFile.find expected file).Tensors |> Weights.adapt expected
        Weights.countDifferences expected stored

    /// The published models that the weights fit, of any number of classes.
    let fitting (file: WeightsFile) : Model list =
        Zoo.models |> List.map (forFile file) |> List.filter (fun model -> distance file model = 0)

    let private undecided (file: WeightsFile) (models: Model list) : Error =
        let what, next =
            match models with
            | [] ->
                let near =
                    Zoo.models
                    |> List.map (forFile file)
                    |> List.map (fun model -> distance file model, model.Name)
                    |> List.sortBy fst
                    |> List.truncate 2
                    |> List.map (fun (count, name) -> $"{name} ({count} tensors differ)")
                    |> String.concat ", "

                "the weights fit no model of the zoo",
                $"nearest: {near}; name one with --model to see how they differ"
            | several ->
                let names = several |> List.map _.Name |> String.concat ", "
                "the weights fit several models", $"name one with --model: {names}"

        Error.create Mismatch what file.Path next

    /// The model that the user named, or that the file names, or else the only one that the weights fit.
    let model (named: string option) (file: WeightsFile) : Result<Model, Error> =
        match named |> Option.orElse (entry modelKey file) with
        | Some name -> Zoo.published name |> Result.map (forFile file)
        | None ->
            match fitting file with
            | [ only ] -> Ok only
            | others -> Error(undecided file others)
