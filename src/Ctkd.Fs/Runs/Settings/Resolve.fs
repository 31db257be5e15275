namespace Ctkd.Fs

open System
open System.Text.Json.Nodes
open FsToolkit.ErrorHandling

/// A change of the settings: the fields that it sets, by their names in JSON, and who asked for it.
[<NoComparison; NoEquality>]
type Assignment = {
    Fields: string list
    Origin: string
    Change: Settings -> Result<Settings, Error>
}

/// Settings with the origin of each field by its name in JSON: default, recipe, or whoever assigned it last.
type Resolved = { Settings: Settings; Origins: Map<string, string> }

/// Settings from layers, a later one beating an earlier: defaults, a recipe, assignments.
[<RequireQualifiedAccess>]
module Resolve =

    /// The object that holds a field, and the field's name in it.
    let private locate (json: JsonObject) (field: string) : JsonObject * string =
        let path = field.Split '.'

        let inner (json: JsonObject) (name: string) = (nonNull json[name]).AsObject()
        Array.fold inner json (Array.truncate (path.Length - 1) path), Array.last path

    /// The settings by their names in JSON; those of the agent are `rlkd.` and a name.
    let fields: string list = SettingsTable.all |> List.map _.Name

    /// An assignment that cannot fail.
    let assign (origin: string) (fields: string list) (change: Settings -> Settings) : Assignment = {
        Fields = fields |> List.map (fun field -> field.Split '.' |> Array.map Json.name |> String.concat ".")
        Origin = origin
        Change = change >> Ok
    }

    /// The methods, each with its published weight, or with the weights that are given in the same order.
    let methods (origin: string) (names: string list) (weights: float list option) : Assignment =
        let wrong what = Error.create Usage what "" "such as: --method kd crd --method-weights 0.9 0.8" |> Result.Error

        let change (s: Settings) =
            match weights with
            | _ when names <> List.distinct names -> wrong "a method is named twice"
            | Some weights when weights.Length <> names.Length ->
                wrong $"there are {names.Length} methods and {weights.Length} weights"
            | Some weights -> Ok { s with Methods = Map(List.zip names weights) }
            | None -> Ok { s with Methods = (Settings.withMethods names s).Methods }

        { Fields = [ "methods" ]; Origin = origin; Change = change }

    /// Sets a field of the table.
    let field (origin: string) (field: Field) (value: objnull) : Assignment = {
        Fields = [ field.Name ]
        Origin = origin
        Change = Field.set field.Name value >> Ok
    }

    /// Sets a field by its name in JSON: "field=value".
    let set (text: string) : Result<Assignment, Error> =
        match text.Split('=', 2) with
        | [| name; value |] ->
            result {
                let! setting = SettingsTable.find name
                let! value = Field.read $"the field '{name}'" value setting
                return field "--set" setting value
            }
        | _ ->
            Error.create Usage $"'{text}' sets no field" "" "write --set field=value, such as --set learningRate=0.1"
            |> Result.Error

    // ---- layers ----

    /// The fields that a recipe sets; the rest is the user's machine and data.
    let private inRecipes: Set<string> =
        SettingsTable.all |> List.filter _.InRecipes |> List.map _.Name |> Set

    /// An agent's schedule for another number of epochs than its own, where what is asked for has an agent.
    let private fitted (asked: Settings) (before: int) (epochs: int) (agent: RlkdSettings) : RlkdSettings =
        if asked.Policy = PolicyName.Rlkd then
            { agent with Mode = asked.Rlkd.Mode; Mix = asked.Rlkd.Mix } |> RlkdSettings.scaled before epochs
        else
            agent

    /// Settings whose photographs have the size that suits their data set, unless one is given.
    let private sized (given: string -> bool) (data: string) (s: Settings) : Settings =
        if given "photos.size" then
            s
        else
            { s with Photos = { s.Photos with Size = Datasets.photoSize data } }

    /// Defaults that depend on what is assigned: epochs and the photographs' size on the data set, milestones and the agent's schedule on
    /// the epochs, methods on the policy, weights of the losses and the warm-up on the methods, learning rate and weight decay
    /// on the optimiser.
    let private dependent (apply: Settings -> Result<Settings, Error>) (given: string -> bool) =
        result {
            let! first = apply Settings.defaults
            let epochs = if given "epochs" then first.Epochs else Settings.epochsFor first.Data

            let start = {
                Settings.defaults with
                    Policy = first.Policy
                    Epochs = epochs
                    Milestones = Settings.milestones (max 0 epochs)
                    Rlkd = fitted first RlkdSettings.publishedEpochs epochs Settings.defaults.Rlkd
            }

            let start = Settings.withOptimiser first.Optimiser start |> sized given first.Data

            let! second = apply (Settings.withMethods (Settings.methodsOf first.Policy) start)
            return Settings.withMethods (List.ofSeq second.Methods.Keys) start
        }

    /// The recipe's milestones and its agent's schedule at the same shares of another number of epochs; the names
    /// of what has changed by that.
    let private scaled (recipe: Settings) (asked: Settings) : Settings * Set<string> =
        let epochs = asked.Epochs
        // The agent beside another policy's recipe is that of the defaults.
        let ofAgent = if recipe.Policy = PolicyName.Rlkd then recipe.Epochs else RlkdSettings.publishedEpochs

        let milestones () = SettingsTable.scaledMilestones recipe.Epochs epochs recipe.Milestones

        let agent = if epochs = ofAgent then recipe.Rlkd else fitted asked ofAgent epochs recipe.Rlkd

        let schedule (agent: RlkdSettings) =
            Set [
                "rlkd.warmUp", agent.WarmUp
                "rlkd.every", agent.Every
                "rlkd.ramp", agent.Ramp
                "rlkd.mixUntil", agent.MixUntil
            ]

        let changed = schedule agent - schedule recipe.Rlkd |> Set.map fst

        if epochs <> recipe.Epochs then
            { recipe with Milestones = milestones (); Rlkd = agent }, changed.Add "milestones"
        else
            { recipe with Rlkd = agent }, changed

    /// The settings of assignments over a recipe, or over the defaults.
    let settings (recipe: Recipe option) (assignments: Assignment list) : Result<Resolved, Error> =
        let apply start = (Ok start, assignments) ||> List.fold (fun s assignment -> Result.bind assignment.Change s)

        let given field = assignments |> List.exists (fun a -> List.contains field a.Fields)

        result {
            let! start, origin =
                match recipe with
                | None -> dependent apply given |> Result.map (fun s -> s, (fun _ -> "default"))
                | Some recipe ->
                    apply recipe.Settings
                    |> Result.map (fun s ->
                        // A recipe without epochs is a mistake, with nothing to scale by.
                        let start, changed =
                            if recipe.Settings.Epochs > 0 then
                                scaled recipe.Settings s
                            else
                                recipe.Settings, Set.empty

                        let start = sized given s.Data start
                        let seeded = recipe.Settings.Seed <> Settings.defaults.Seed

                        let origin field =
                            if changed.Contains field then "recipe, scaled"
                            elif inRecipes.Contains field then "recipe"
                            elif field = "seed" && seeded then "recipe"
                            else "default"

                        start, origin
                    )

            let! settings = apply start
            let begun = fields |> List.map (fun field -> field, origin field) |> Map

            let origins =
                (begun, assignments)
                ||> List.fold (fun origins a ->
                    (origins, a.Fields) ||> List.fold (fun origins field -> Map.add field a.Origin origins)
                )

            return { Settings = settings; Origins = origins }
        }

    /// Every field with its value as JSON and its origin, in the order of the settings.
    let rows (resolved: Resolved) : (string * string * string) list =
        let json = (JsonNode.Parse(Json.write resolved.Settings) |> nonNull).AsObject()

        [
            for field in fields ->
                let inner, name = locate json field
                field, (nonNull inner[name]).ToJsonString(), resolved.Origins[field]
        ]
