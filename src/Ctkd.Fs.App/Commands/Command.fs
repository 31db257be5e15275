namespace Ctkd.Fs.App

open Ctkd.Fs

/// What several commands share.
module Command =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> = Error.fail ErrorKind.Usage what "" next

    /// The value of a flag from the words after it, if it is given.
    let read<'T> (kind: FieldKind) (flag: string) (words: string list option) : Result<'T option, Error> =
        let checkedValue (words: string list) =
            let text = String.concat " " words

            match kind.Read text with
            | Error reason -> usage $"'{text}' is no value for --{flag}: {reason}" $"it takes {kind.Takes}"
            | Ok value ->
                match kind.Mistakes flag value with
                | [] -> Ok(Some(unbox<'T> value))
                | mistakes ->
                    let bound = if kind.Bound = "" then "" else $", {kind.Bound}"
                    usage (String.concat "; " mistakes) $"--{flag} takes {kind.Takes}{bound}"

        words |> Option.map checkedValue |> Option.defaultValue (Ok None)

    /// As `read`, for a flag that is a setting's, too.
    let setting<'T> (flag: string) (words: string list option) : Result<'T option, Error> =
        read (SettingsTable.ofFlag flag).Kind flag words

    /// As `read`, for a flag of one whole number.
    let count (kind: FieldKind) (flag: string) (value: int option) : Result<int option, Error> =
        read kind flag (value |> Option.map (string >> List.singleton))

    /// The values of --mean and --std, where they are given.
    let normalisation (mean: string list option) (std: string list option) =
        match setting<float list> "mean" mean, setting<float list> "std" std with
        | Ok mean, Ok std -> Ok(mean, std)
        | Error error, _
        | _, Error error -> Error error

    /// The help of --threads.
    let threadsHelp: string =
        let field = SettingsTable.ofFlag "threads"
        $"{field.Meaning} [{field.DefaultInWords}]"

    /// Sets the number of threads, where the flag gives one.
    let threads (given: int option) : Result<unit, Error> =
        count (SettingsTable.ofFlag "threads").Kind "threads" given
        |> Result.map (Option.filter (fun count -> count > 0) >> Option.iter Engine.setThreads)

    /// Whether the value of --data is a place of photographs and no name of a data set: it is there, or looks like a path.
    let isPlace (data: string) : bool =
        not (List.contains data Datasets.names)
        && (System.IO.Path.Exists data || data.Contains System.IO.Path.DirectorySeparatorChar || data.Contains '/')

    /// The name of the data set and its folder, from --data and --data-dir.
    let dataOf (data: string option) (dir: string option) : string option * string option =
        match data, dir with
        | Some place, _ when isPlace place -> Some "photos", Some(System.IO.Path.GetFullPath place)
        | Some name, None -> data, Settings.ownFolder name
        | _ -> data, dir

    /// Refuses a folder of data where an embedded set is used, which needs none: the data set's name was forgotten.
    let dataDirHasData (s: Settings) : Result<unit, Error> =
        if List.contains s.Data Datasets.embedded && s.DataDir <> "" then
            let others = Datasets.names |> List.except Datasets.embedded |> String.concat ", "

            usage
                $"--data-dir has no effect on {s.Data}, which are part of the program"
                $"name the data set: --data {others}"
        else
            Ok()

    /// Refuses to write over the file that is read: a checkpoint would lose what only a run has.
    let notItself (weights: string) (out: string) : Result<unit, Error> =
        let full (path: string) = System.IO.Path.GetFullPath path

        match RunDirectory.weightsOf weights with
        | Ok source when full source.File = full out ->
            Error.fail ErrorKind.Usage "this would replace the weights that are read" out "give another file to write"
        | _ -> Ok()

    /// The names of precisions and policies, as help lists them.
    let precisions: string = String.concat ", " Settings.precisions
    let policies: string = String.concat ", " Settings.policies

    /// What a flag for a file of weights takes, as help says it.
    let weightsFile: string =
        "a checkpoint, a run's folder, a safetensors or PyTorch file, FILE.tar:INNER of an archive, FILE#KEY of several"

    /// What --ignore-extra does, as help says it.
    let ignoreExtra: string =
        "leave tensors aside that the model lacks, such as a second head [they are an error]"

    /// Weights for a role, with or without --ignore-extra.
    let weightsFor (role: WeightsRole) (ignoreExtra: bool) : WeightsOptions = {
        WeightsFit.strict with
            Role = role
            IgnoreExtra = ignoreExtra
    }

    /// Loads weights, and says which of several were taken and what was left aside.
    let load (say: string -> unit) (options: WeightsOptions) (device: Device) (model: string option) (path: string) =
        LoadedModel.loadWith options device model path
        |> Result.map (fun (loaded, notes) ->
            notes |> List.iter say
            loaded
        )

    /// The precision of a flag, or the default one.
    let precision (name: string option) : Result<Precision, Error> =
        match name with
        | Some name when List.contains name Settings.precisions -> Names.find<Precision> "precision" name
        | Some name -> Result.Error(Error.unknown "precision" Settings.precisions name)
        | None -> Ok Settings.defaults.Precision
