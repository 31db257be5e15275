namespace Ctkd.Fs.App

open Ctkd.Fs

/// What several commands share.
module Command =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> = Error.fail ErrorKind.Usage what "" next

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
