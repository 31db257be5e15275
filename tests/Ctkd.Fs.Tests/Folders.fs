/// Helpers of the tests that read and write files.
module Ctkd.Fs.Tests.Folders

open System.IO
open Ctkd.Fs

/// Runs a test in a new folder, which is removed afterwards.
let inFolder (body: string -> 'T) : 'T =
    let folder = Directory.CreateTempSubdirectory "ctkd-test-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// The error of a result that must be one.
let errorOf (result: Result<'T, Error>) : Error =
    match result with
    | Error error -> error
    | Ok value -> failwith $"an error was expected, not {value}"
