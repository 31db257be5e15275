/// Runs the bodies of all tests on the main thread. Every thread that calls libtorch keeps a team of OpenMP threads;
/// with more threads than processors OpenMP sleeps instead of spinning, and small operators take twice as long.
module Ctkd.Fs.Tests.OneThread

open System.Collections.Concurrent
open System.Threading.Tasks
open Expecto

let private bodies = new BlockingCollection<unit -> unit>()

/// Runs `runTests` on another thread, and the tests' bodies on this one.
let around (runTests: unit -> int) : int =
    let running =
        Task.Run(fun () ->
            try
                runTests ()
            finally
                bodies.CompleteAdding()
        )

    for body in bodies.GetConsumingEnumerable() do
        body ()

    running.GetAwaiter().GetResult()

/// Returns the body's result, or rethrows its exception.
let private there (body: unit -> 'T) : Async<'T> =
    async {
        let ended = TaskCompletionSource<Choice<'T, exn>> TaskCreationOptions.RunContinuationsAsynchronously

        bodies.Add(fun () ->
            let outcome =
                try
                    Choice1Of2(body ())
                with error ->
                    Choice2Of2 error

            ended.SetResult outcome
        )

        match! Async.AwaitTask ended.Task with
        | Choice1Of2 answer -> return answer
        | Choice2Of2 error ->
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw error
            return failwith "unreachable"
    }

let private code (code: TestCode) : TestCode =
    let finish (computation: Async<'T>) : 'T = (Async.StartImmediateAsTask computation).GetAwaiter().GetResult()

    match code with
    | Sync body -> Async(there body)
    | Async body -> Async(there (fun () -> finish body))
    | AsyncFsCheck(config, stress, body) ->
        AsyncFsCheck(config, stress, fun config -> there (fun () -> finish (body config)))
    | SyncWithCancel body -> SyncWithCancel body

/// Wraps tests so that their bodies run on the thread of `around`.
let rec test (tests: Test) : Test =
    match tests with
    | TestCase(body, focus) -> TestCase(code body, focus)
    | TestList(tests, focus) -> TestList(List.map test tests, focus)
    | TestLabel(name, tests, focus) -> TestLabel(name, test tests, focus)
    | Test.Sequenced(how, tests) -> Test.Sequenced(how, test tests)
