/// One thread for the bodies of all tests. Every thread that calls libtorch keeps a team of OpenMP threads; with more
/// threads than processors OpenMP no longer waits for work but sleeps, and small operators take twice as long.
module Ctkd.Fs.Tests.OneThread

open System.Collections.Concurrent
open System.Threading.Tasks
open Expecto

let private bodies = new BlockingCollection<unit -> unit>()

/// Runs what runs tests, and the tests' bodies all on one thread of the pool: FsCheck goes over to the pool by itself
/// where it is not there already.
let around (runTests: unit -> int) : int =
    let work () =
        for body in bodies.GetConsumingEnumerable() do
            body ()
            if not (isNull (System.Environment.GetEnvironmentVariable "PROBE")) then
                let x = TorchSharp.torch.ones(200000L)
                let sw () = System.IO.File.ReadAllLines "/proc/thread-self/status" |> Array.find (fun l -> l.StartsWith "voluntary_ctxt") |> fun l -> int (l.Split('\t')[1])
                let s0 = sw ()
                for _ in 1..100 do x.add_(TorchSharp.torch.ones(1L).ToScalar()) |> ignore
                let t = sw () - s0
                if t > 20 then eprintfn "PROBE %d" t

    let working = Task.Run work

    try
        runTests ()
    finally
        bodies.CompleteAdding()
        working.Wait()

/// The body's answer, or its exception as it was thrown.
let private there (body: unit -> 'T) : Async<'T> =
    async {
        let ended = TaskCompletionSource<Choice<'T, exn>> TaskCreationOptions.RunContinuationsAsynchronously
        bodies.Add(fun () -> ended.SetResult(try Choice1Of2(body ()) with error -> Choice2Of2 error))

        match! Async.AwaitTask ended.Task with
        | Choice1Of2 answer -> return answer
        | Choice2Of2 error ->
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw error
            return failwith "unreachable"
    }

let private code (code: TestCode) : TestCode =
    let finished (computation: Async<'T>) () : 'T =
        (Async.StartImmediateAsTask computation).GetAwaiter().GetResult()

    match code with
    | Sync body -> Async(there body)
    | Async body -> Async(there (finished body))
    | AsyncFsCheck(config, stress, body) -> AsyncFsCheck(config, stress, body >> finished >> there)
    | SyncWithCancel body -> SyncWithCancel body

/// The tests with their bodies on the thread of `around`.
let rec test (tests: Test) : Test =
    match tests with
    | TestCase(body, focus) -> TestCase(code body, focus)
    | TestList(tests, focus) -> TestList(List.map test tests, focus)
    | TestLabel(name, tests, focus) -> TestLabel(name, test tests, focus)
    | Test.Sequenced(how, tests) -> Test.Sequenced(how, test tests)
