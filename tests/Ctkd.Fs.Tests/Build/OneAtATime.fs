namespace Ctkd.Fs.Tests

open System
open System.IO
open System.Threading

/// Work that one process of a user may do at a time: Paket reads packages of the common cache that another one is still
/// unpacking, and fails with "could not find nuspec".
[<RequireQualifiedAccess>]
module OneAtATime =

    let private isHeld (problem: IOException) : bool =
        // Windows: sharing violation; elsewhere: EWOULDBLOCK of flock.
        List.contains (problem.HResult &&& 0xFFFF) [ 32; 11; 35 ]

    /// Runs the body while this process holds the lock. Waits where another one holds it, and tells it once. The lock of a
    /// process that was killed is free.
    let run (tell: string -> unit) (lockFile: string) (body: unit -> 'T) : 'T =
        let attempt () =
            try
                Some(new FileStream(lockFile, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None))
            with :? IOException as problem when isHeld problem ->
                None

        let rec take (hasTold: bool) =
            match attempt () with
            | Some held -> held
            | None ->
                if not hasTold then
                    tell "another build on this machine is at it: waiting for its end"

                Thread.Sleep 200
                take true

        use _ = take false
        body ()
