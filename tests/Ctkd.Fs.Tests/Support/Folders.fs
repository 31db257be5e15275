/// Helpers of the tests that read and write files.
module Ctkd.Fs.Tests.Folders

open System
open System.IO
open Ctkd.Fs

/// Puts temporary folders into memory where the system has such a place with room: thousands of small files are written
/// and flushed. A folder that the user names in TMPDIR is kept.
let inMemory () : unit =
    let memory, room = "/dev/shm", 4_000_000_000L

    if
        isNull (Environment.GetEnvironmentVariable "TMPDIR")
        && Directory.Exists memory
        && DriveInfo(memory).AvailableFreeSpace >= room
    then
        Environment.SetEnvironmentVariable("TMPDIR", memory)

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
