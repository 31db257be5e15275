/// Helpers for tests that read and write files.
module Ctkd.Fs.Tests.Folders

open System
open System.IO
open Ctkd.Fs

/// Puts temporary folders into memory if possible, since tests write and flush thousands of small files. Respects
/// TMPDIR.
let inMemory () : unit =
    let memory, room = "/dev/shm", 4_000_000_000L

    if
        isNull (Environment.GetEnvironmentVariable "TMPDIR")
        && Directory.Exists memory
        && DriveInfo(memory).AvailableFreeSpace >= room
    then
        Environment.SetEnvironmentVariable("TMPDIR", memory)

/// Runs a test in a new folder and removes it afterwards.
let inFolder (body: string -> 'T) : 'T =
    let folder = Directory.CreateTempSubdirectory "ctkd-test-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// Returns the error of a result, which must be one.
let errorOf (result: Result<'T, Error>) : Error =
    match result with
    | Error error -> error
    | Ok value -> failwith $"an error was expected, not {value}"
