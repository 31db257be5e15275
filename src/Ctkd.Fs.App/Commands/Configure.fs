namespace Ctkd.Fs.App

open System.IO
open System.Text.Json.Nodes
open Argu
open FSharp.Reflection
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// From the flags of `teach` and `distill` to settings, each with its origin.
module Configure =

    let private s = Settings.defaults
    let private r = s.Rlkd

    /// Runs may go on from another folder than they began in: their settings name whole paths.
    let private absolute (path: string) : string = if path = "" then "" else Path.GetFullPath path

    /// The flag as the user wrote it.
    let private written (flag: TrainArgs) : string =
        let case, _ = FSharpValue.GetUnionFields(flag, typeof<TrainArgs>)
        "--" + case.Name.ToLowerInvariant().Replace('_', '-')

    /// Sets the weight of one method and leaves the others.
    let private weighing (name: string) (weight: float) (s: Settings) : Settings = {
        s with
            Methods = Map.add name weight s.Methods
    }

    /// What a flag assigns; those that come together, or say how to run, assign nothing here.
    let private assignment (flag: TrainArgs) : Assignment option =
        let set field change = Some(Resolve.assign (written flag) [ field ] change)

        let setAgent field change = set $"{nameof s.Rlkd}.{field}" (fun s -> { s with Rlkd = change s.Rlkd })

        match flag with
        | TrainArgs.Model name
        | TrainArgs.Student name -> set (nameof s.Student) (fun s -> { s with Student = name })
        | TrainArgs.Teacher name -> set (nameof s.Teacher) (fun s -> { s with Teacher = name })
        | TrainArgs.Weights file ->
            set (nameof s.TeacherWeights) (fun s -> { s with TeacherWeights = absolute file })
        | TrainArgs.Data name -> set (nameof s.Data) (fun s -> { s with Data = name })
        | TrainArgs.Data_Dir dir -> set (nameof s.DataDir) (fun s -> { s with DataDir = absolute dir })
        | TrainArgs.Mean values -> set (nameof s.Mean) (fun s -> { s with Mean = values })
        | TrainArgs.Std values -> set (nameof s.Std) (fun s -> { s with Std = values })
        | Per_Class count -> set (nameof s.PerClass) (fun s -> { s with PerClass = count })
        | Epochs count -> set (nameof s.Epochs) (fun s -> { s with Epochs = count })
        | TrainArgs.Batch count -> set (nameof s.Batch) (fun s -> { s with Batch = count })
        | Lr rate -> set (nameof s.LearningRate) (fun s -> { s with LearningRate = rate })
        | Milestones epochs -> set (nameof s.Milestones) (fun s -> { s with Milestones = epochs })
        | Decay factor -> set (nameof s.Decay) (fun s -> { s with Decay = factor })
        | Momentum share -> set (nameof s.Momentum) (fun s -> { s with Momentum = share })
        | Weight_Decay weight -> set (nameof s.WeightDecay) (fun s -> { s with WeightDecay = weight })
        | Nesterov -> set (nameof s.Nesterov) (fun s -> { s with Nesterov = true })
        | TrainArgs.Policy name -> set (nameof s.Policy) (fun s -> { s with Policy = name })
        | Standardise -> set (nameof s.Standardise) (fun s -> { s with Standardise = true })
        | T value -> set (nameof s.T) (fun s -> { s with T = value })
        | T_Stop value -> set (nameof s.TStop) (fun s -> { s with TStop = value })
        | T_Start value -> set (nameof s.TStart) (fun s -> { s with TStart = value })
        | T_Scale value -> set (nameof s.TScale) (fun s -> { s with TScale = value })
        | TrainArgs.Hidden width -> set (nameof s.Hidden) (fun s -> { s with Hidden = width })
        | Curriculum_Start value ->
            set (nameof s.CurriculumStart) (fun s -> { s with CurriculumStart = value })
        | Curriculum_Stop value -> set (nameof s.CurriculumStop) (fun s -> { s with CurriculumStop = value })
        | Curriculum_Epochs count ->
            set (nameof s.CurriculumEpochs) (fun s -> { s with CurriculumEpochs = count })
        | No_Temperature_Decay ->
            set (nameof s.DecayTemperature) (fun s -> { s with DecayTemperature = false })
        | Rl_Mode name -> setAgent (nameof r.Mode) (fun r -> { r with Mode = name })
        | Rl_Warm_Up epoch -> setAgent (nameof r.WarmUp) (fun r -> { r with WarmUp = epoch })
        | Rl_Every epochs -> setAgent (nameof r.Every) (fun r -> { r with Every = epochs })
        | Rl_Ramp epochs -> setAgent (nameof r.Ramp) (fun r -> { r with Ramp = epochs })
        | Rl_No_Mix -> setAgent (nameof r.Mix) (fun r -> { r with Mix = false })
        | Rl_Mix_Until epoch -> setAgent (nameof r.MixUntil) (fun r -> { r with MixUntil = epoch })
        | Ce weight -> set (nameof s.CrossEntropy) (fun s -> { s with CrossEntropy = weight })
        | Kd weight -> set (nameof s.Methods) (weighing "kd" weight)
        | Dkd_Alpha weight -> set (nameof s.DkdAlpha) (fun s -> { s with DkdAlpha = weight })
        | Dkd_Beta weight -> set (nameof s.DkdBeta) (fun s -> { s with DkdBeta = weight })
        | Warm_Up epochs -> set (nameof s.WarmUp) (fun s -> { s with WarmUp = epochs })
        | TrainArgs.Precision name -> set (nameof s.Precision) (fun s -> { s with Precision = name })
        | Contiguous -> set (nameof s.ChannelsLast) (fun s -> { s with ChannelsLast = false })
        | TrainArgs.Device name -> set (nameof s.Device) (fun s -> { s with Device = name })
        | No_Tf32 -> set (nameof s.Tf32) (fun s -> { s with Tf32 = false })
        | No_Graph -> set (nameof s.Graph) (fun s -> { s with Graph = false })
        | TrainArgs.Seed number -> set (nameof s.Seed) (fun s -> { s with Seed = number })
        | Teacher_Cache dir -> set (nameof s.TeacherCache) (fun s -> { s with TeacherCache = absolute dir })
        | Teacher_Cache_Gb size -> set (nameof s.TeacherCacheGb) (fun s -> { s with TeacherCacheGb = size })
        | Teacher_Cache_Half -> set (nameof s.TeacherCacheHalf) (fun s -> { s with TeacherCacheHalf = true })
        | Teacher_Ahead steps -> set (nameof s.TeacherAhead) (fun s -> { s with TeacherAhead = steps })
        | TrainArgs.Method _
        | Method_Weights _
        | Set _
        | Recipe _
        | Dry_Run
        | TrainArgs.Out _
        | Resume _
        | TrainArgs.Json -> None

    /// Flags that mean nothing without a teacher.
    let private needsTeacher (flag: TrainArgs) : bool =
        match flag with
        | TrainArgs.Student _
        | TrainArgs.Teacher _
        | TrainArgs.Weights _
        | Recipe _
        | TrainArgs.Method _
        | Method_Weights _
        | Ce _
        | Kd _
        | Dkd_Alpha _
        | Dkd_Beta _
        | Warm_Up _
        | TrainArgs.Policy _
        | Standardise
        | T _
        | T_Stop _
        | T_Start _
        | T_Scale _
        | TrainArgs.Hidden _
        | Curriculum_Start _
        | Curriculum_Stop _
        | Curriculum_Epochs _
        | Teacher_Cache _
        | Teacher_Cache_Gb _
        | Teacher_Cache_Half
        | Teacher_Ahead _
        | Rl_Mode _
        | Rl_Warm_Up _
        | Rl_Every _
        | Rl_Ramp _
        | Rl_No_Mix
        | Rl_Mix_Until _
        | No_Temperature_Decay -> true
        | _ -> false

    /// Whether one of the flags means nothing without a teacher.
    let needTeacher (args: ParseResults<TrainArgs>) : bool = args.GetAllResults() |> List.exists needsTeacher

    /// The methods come first, whatever the order of the flags: --kd then changes the weight of one of them.
    let private methods (args: ParseResults<TrainArgs>) : Result<Assignment list, Error> =
        match args.TryGetResult TrainArgs.Method, args.TryGetResult Method_Weights with
        | Some names, weights -> Ok [ Resolve.methods "--method" names weights ]
        | None, None -> Ok []
        | None, Some _ ->
            Error.create
                Usage
                "--method-weights is for --method, which is missing"
                ""
                "such as: --method kd crd --method-weights 0.9 0.8"
            |> Result.Error

    /// Flags for an agent that does not take part are a mistake.
    let private agentTakesPart (assignments: Assignment list) (s: Settings) : Result<unit, Error> =
        let ofAgent (field: string) = field.StartsWith("rlkd.", System.StringComparison.Ordinal)

        match assignments |> List.tryFind (_.Fields >> List.exists ofAgent) with
        | Some assignment when s.Policy <> "rlkd" ->
            let what =
                if assignment.Origin = "--set" then
                    $"--set {List.head assignment.Fields}"
                else
                    assignment.Origin

            Error.create
                Usage
                $"{what} is for the policy rlkd, and the policy is {s.Policy}"
                ""
                "add --policy rlkd, or leave it out"
            |> Result.Error
        | _ -> Ok()

    /// Settings from the flags: defaults, then the recipe, then flags and --set in the order given.
    let resolve (args: ParseResults<TrainArgs>) : Result<Resolved, Error> =
        result {
            let! recipe =
                match args.TryGetResult Recipe with
                | Some name -> Recipes.load name |> Result.map Some
                | None -> Ok None

            let! methods = methods args

            let! others =
                args.GetAllResults()
                |> List.traverseResultM (
                    function
                    | Set texts -> texts |> List.traverseResultM Resolve.set
                    | flag -> Ok(Option.toList (assignment flag))
                )

            let assignments = methods @ List.concat others
            let! resolved = Resolve.settings recipe assignments
            let s = resolved.Settings
            do! agentTakesPart assignments s

            return {
                resolved with
                    Settings = {
                        s with
                            TeacherWeights = absolute s.TeacherWeights
                            DataDir = absolute s.DataDir
                    }
            }
        }

    // ---- dry runs ----

    /// Mistakes of settings whose teacher's file is still to come, and which this version need not know.
    let check (s: Settings) : Result<unit, Error> =
        let s = if s.TeacherWeights = "" then { s with Teacher = "" } else s

        if Settings.mistakes s = Settings.planned s then
            Ok()
        else
            Settings.validate s |> Result.ignore

    /// Every setting with its value and its origin.
    let table (resolved: Resolved) : Table = {
        Caption = ""
        Header = [ "setting"; "value"; "origin" ]
        Rows = Resolve.rows resolved |> List.map (fun (field, value, origin) -> [ field; value; origin ])
    }

    /// What the recipe's authors measured, and what a run of the settings still needs.
    let remarks (args: ParseResults<TrainArgs>) (s: Settings) : string list = [
        match args.TryGetResult Recipe |> Option.map Recipes.load with
        | Some(Ok { Top1 = Some top1 }) -> $"published: %.2f{top1} %% top-1"
        | _ -> ()

        if s.Teacher <> "" && s.TeacherWeights = "" then
            $"to run: the weights of {s.Teacher} with --weights FILE"
        if s.DataDir = "" && s.Data <> "digits" then
            $"to run: the folder of {s.Data} with --data-dir DIR"
        for what in Settings.planned s do
            $"warning: {what}"
    ]

    /// The table as JSON: fields with values and origins.
    let json (resolved: Resolved) : JsonObject =
        let json = JsonObject()

        for field, value, origin in Resolve.rows resolved do
            let entry = JsonObject()
            entry["value"] <- JsonNode.Parse value
            entry["origin"] <- JsonValue.Create origin
            json[field] <- entry

        json
