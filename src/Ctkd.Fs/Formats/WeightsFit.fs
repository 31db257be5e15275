namespace Ctkd.Fs

/// How weights of a file may differ from the model's.
type WeightsOptions = {
    /// Which network is meant where a file holds several.
    Role: WeightsRole
    /// Whether tensors that the model lacks are left aside.
    IgnoreExtra: bool
    /// The seed of a new classifier in place of one that is missing or of another shape; None to refuse it.
    FreshClassifier: int option
}

/// Fits the weights of a file to a model.
[<RequireQualifiedAccess>]
module WeightsFit =
    /// Every tensor must fit.
    let strict: WeightsOptions = { Role = WeightsRole.Any; IgnoreExtra = false; FreshClassifier = None }

    let private listed (names: string list) : string =
        let shown = names |> List.truncate 8 |> List.map Files.printable |> String.concat ", "
        if names.Length > 8 then $"{shown} and {names.Length - 8} more" else shown

    /// The classifier's declarations that no stored tensor fits.
    let private unfitting (model: Model) (tensors: StoredTensor list) : Declaration list =
        Model.declarations model
        |> List.filter (fun d ->
            (d.Name = model.Classifier.Weight || d.Name = model.Classifier.Bias)
            && not (
                tensors |> List.exists (fun tensor -> tensor.Name = d.Name && tensor.Shape = List.map int64 d.Shape)
            )
        )

    let private fresh (seed: int) (declarations: Declaration list) : StoredTensor list =
        Tensor.scoped (fun () ->
            declarations
            |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed seed)
            |> Tree.toList
            |> List.map (fun (name, x) -> Weights.store name x)
        )

    /// What to do about an error: the flags that allow the differences, where there are some.
    let private advise (model: Model) (found: StateDict) (expected: Weights.Expected list) (error: Error) : Error =
        let names = expected |> List.map _.Name |> Set.ofList
        let there = found.Tensors |> List.map _.Name |> Set.ofList

        let isMissing (name: string) = names.Contains name && not (there.Contains name)

        match found.Skipped |> List.tryFind (fun tensor -> isMissing tensor.Name) with
        | Some { Name = name; Stored = stored; What = what } -> {
            error with
                What =
                    $"the model needs '{Files.printable name}', which is {UnreadTensor.describe what}, and that is not read; "
                    + error.What
                Next = UnreadTensor.remedy stored what
          }
        | None ->
            let differing = Weights.differing expected found.Tensors
            let extra = Weights.extra expected found.Tensors
            let classifier = unfitting model found.Tensors |> List.map _.Name

            if not extra.IsEmpty && differing.IsEmpty then
                { error with Next = "leave the extra tensors aside with --ignore-extra" }
            elif not classifier.IsEmpty && List.forall (fun name -> List.contains name classifier) differing then
                let also = if extra.IsEmpty then "" else " and --ignore-extra"

                {
                    error with
                        Next =
                            "only the classifier differs: ctkd convert --fresh-classifier"
                            + also
                            + " makes a new one, to be trained"
                }
            else
                error

    /// The tensors with a new classifier in place of one that does not fit, where the options have its seed, and its names.
    let internal withClassifier (options: WeightsOptions) (model: Model) (tensors: StoredTensor list) =
        match options.FreshClassifier with
        | None -> tensors, []
        | Some seed ->
            let declarations = unfitting model tensors
            let names = declarations |> List.map _.Name
            List.filter (fun tensor -> not (List.contains tensor.Name names)) tensors @ fresh seed declarations, names

    /// What a user should know of a new classifier.
    let internal classifierNotes (options: WeightsOptions) (names: string list) : string list =
        match options.FreshClassifier, names with
        | Some seed, _ :: _ -> [ $"new from the seed {seed}, and to be trained: {listed names}" ]
        | _ -> []

    /// As `tensors`, with the names of those that are new before what a user should know.
    let internal fitted (options: WeightsOptions) (model: Model) (file: WeightsFile) =
        let expected = Weights.expected DType.Float32 (Model.declarations model)
        let found = WeightsFile.find expected file
        let extra = Weights.extra expected found.Tensors
        let aside = System.Collections.Generic.HashSet extra
        let isExtra (tensor: StoredTensor) = aside.Contains tensor.Name
        let kept = if options.IgnoreExtra then List.filter (isExtra >> not) found.Tensors else found.Tensors

        let replaced, added = withClassifier options model kept

        let notes = [
            yield! WeightsFile.notes found file

            if options.IgnoreExtra && not extra.IsEmpty then
                $"left aside: {extra.Length} tensors that {model.Name} lacks: {listed extra}"

            yield! classifierNotes options added
        ]

        Weights.relabel expected replaced
        |> Weights.check $"model {model.Name} for {model.Classes} classes" file.Path expected
        |> Result.mapError (advise model found expected)
        |> Result.map (fun () -> { found with Tensors = replaced }, added, notes)

    /// <summary>The weights of a file for a model, as they are stored.</summary>
    /// <param name="options">Which differences are allowed.</param>
    /// <param name="model">The model.</param>
    /// <param name="file">The file.</param>
    /// <returns>
    /// The weights, and what a user should know of them; or an error that lists all differences and says what allows them.
    /// </returns>
    let tensors (options: WeightsOptions) (model: Model) (file: WeightsFile) : Result<StateDict * string list, Error> =
        fitted options model file |> Result.map (fun (found, _, notes) -> found, notes)
