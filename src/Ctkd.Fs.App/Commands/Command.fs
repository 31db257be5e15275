namespace Ctkd.Fs.App

open Ctkd.Fs

/// What several commands share.
module Command =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> = Error.fail ErrorKind.Usage what "" next

    /// The names of precisions and policies, as help lists them.
    let precisions: string = String.concat ", " Settings.precisions
    let policies: string = String.concat ", " Settings.policies

    /// The precision of a flag, or the default one.
    let precision (name: string option) : Result<Precision, Error> =
        match name with
        | Some name when List.contains name Settings.precisions -> Names.find<Precision> "precision" name
        | Some name -> Result.Error(Error.unknown "precision" Settings.precisions name)
        | None -> Ok Settings.defaults.Precision
