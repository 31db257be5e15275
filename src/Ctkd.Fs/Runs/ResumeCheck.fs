namespace Ctkd.Fs

/// What a run must share with itself to go on.
[<RequireQualifiedAccess>]
module ResumeCheck =

    /// Refuses another teacher than the run began with.
    let teacher (run: PreparedRun) (checkpoint: Checkpoint) : Result<unit, Error> =
        if run.TeacherHash = checkpoint.Info.TeacherHash then
            Ok()
        else
            Error.fail
                Mismatch
                "the teacher's weights are not those that the run began with"
                run.Settings.TeacherWeights
                "give the original ones, from another place with --weights, or start a new run"

    /// Refuses other data than the run began with.
    let data (run: PreparedRun) (checkpoint: Checkpoint) : Result<unit, Error> =
        if (run.DataHash, run.Images) = (checkpoint.Info.DataHash, checkpoint.Info.Images) then
            Ok()
        else
            Error.fail
                Mismatch
                "the data set is not the one that the run began with"
                run.Settings.DataDir
                "give the original one, from another place with --data-dir, or start a new run"

    /// Refuses to resume without the values of the program that began the run.
    let parts (path: string) (recorded: Settings) (experiment: Experiment) : Result<unit, Error> =
        match Prepare.missing recorded experiment with
        | [] -> Ok()
        | missing ->
            let names = String.concat ", " missing

            Error.create
                Mismatch
                $"the run was begun by a program with values of its own: {names}"
                path
                "resume it from that program, by Distil.resume with the same values"
            |> Result.Error

    let private differing (one: Settings) (other: Settings) : Field list =
        SettingsTable.all |> List.filter (fun field -> Field.get field.Name one <> Field.get field.Name other)

    /// Refuses to resume with other values than those that the run began with, by their names and weights.
    let values (path: string) (recorded: Settings) (given: Settings) : Result<unit, Error> =
        if recorded = given then
            Ok()
        else
            let names = differing recorded given |> List.map _.Name |> String.concat ", "
            let what = $"the run began with other values than it is resumed with: {names} differ"
            Error.fail Mismatch what path "resume it with the values that it began with, or start a new run"

    /// Refuses changes that would make another run of it.
    let changes (path: string) (recorded: Settings) (changed: Settings) : Result<unit, Error> =
        match differing recorded changed |> List.filter (_.MayChange >> not) with
        | [] when changed.Epochs >= recorded.Epochs -> Ok()
        | [] ->
            let what = $"the run was begun for {recorded.Epochs} epochs, and {changed.Epochs} are fewer"
            Error.fail Usage what path "give more epochs, or stop the run with Ctrl-C: its checkpoints are whole"
        | others ->
            let names = others |> List.map _.Name |> String.concat ", "
            let allowed = SettingsTable.all |> List.filter _.MayChange |> List.map _.Name |> String.concat ", "

            Error.fail
                Usage
                $"a run keeps its settings when it is resumed, and {names} would change"
                path
                $"change only {allowed}, or start a new run"
