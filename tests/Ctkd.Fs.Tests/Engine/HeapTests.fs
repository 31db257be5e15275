module Ctkd.Fs.Tests.HeapTests

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open System.Threading
open Expecto
open Ctkd.Engine
open TorchSharp

type private Tensor = torch.Tensor

// ---- libtorch's tensors in the range -----------------------------------------------------------------

let private bytes (count: int64) : Tensor = torch.empty ([| count |], dtype = torch.uint8)

/// Returns the large tensors after collecting the garbage of earlier tests.
let private large () : struct (int64 * int) =
    for _ in 1..2 do
        GC.Collect()
        GC.WaitForPendingFinalizers()

    Heap.Taken

let private resize (x: Tensor) (size: int64) : unit =
    let stack = [| Dispatcher.Of x; Dispatcher.Of(ReadOnlySpan [| size |]); Dispatcher.None |]
    Dispatcher.Invoke(ReadOnlySpan "aten::resize_"B, ReadOnlySpan<byte>.Empty, Span stack)
    Dispatcher.Drop stack[0]

let private resident () : int64 =
    File.ReadAllLines "/proc/self/status"
    |> Array.find _.StartsWith("VmRSS:")
    |> fun line -> 1024L * int64 (line.Replace("VmRSS:", "").Replace("kB", "").Trim())

/// A training step with tensors below and above the limit.
let private step (weight: Tensor) : unit =
    use _ = torch.NewDisposeScope()
    let x = torch.ones ([| weight.numel () |])
    let loss = (weight * x).relu().square().mean()
    loss.backward ()
    (nonNull weight.grad).zero_() |> ignore

let private tensors =
    testList "Heap" [
        test "this system's large tensors lie on huge pages" {
            Natives.Load() |> ignore

            let expected = OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture = Architecture.X64

            Expect.equal Heap.Active expected Heap.State
            Must.contain (if expected then "huge pages: " else "malloc: ") Heap.State
        }

        test "a size decides where a tensor lies, and freeing it gives the room back" {
            let struct (before, count) = large ()

            for size, isLarge in [ 0L, false; 1L, false; 262_143L, false; 262_144L, true; 10_000_000L, true ] do
                let x = bytes size
                let struct (now, _) = Heap.Taken
                Must.equal (if isLarge && Heap.Active then BlocksTests.roundUp size else 0L) (now - before)
                x.fill_ (1) |> ignore
                Must.equal size (x.sum().item<int64>())
                x.Dispose()

            Must.equal (struct (before, count)) (large ())
        }

        test "views, copies and storages that grow keep their values" {
            let before = large ()

            using
                (torch.NewDisposeScope())
                (fun _ ->
                    let x = torch.arange (200_000, dtype = torch.int64)
                    let y = x.slice(0, 100_000, 200_000, 1).clone()
                    x.Dispose()
                    Must.equal 199_999L (y.slice(0, 99_999, 100_000, 1).item<int64>())
                    let z = y.slice (0, 0, 10, 1)
                    y.Dispose()
                    Must.equal 100_009L (z.slice(0, 9, 10, 1).item<int64>())
                    // the same storage: small, then large, then larger
                    let r = torch.zeros ([| 8L |])

                    for size in [ 100_000L; 1_000_000L ] do
                        resize r size
                        Must.equal 0.0f (r.slice(0, 0, 8, 1).sum().item<float32>())
                )

            Must.equal before (large ())
        }

        test "more than there is gives libtorch's error, and the next tensor works" {
            for size in [ 1L <<< 46; Int64.MaxValue / 2L ] do
                let error = Must.throwAny<ExternalException>(fun () -> (bytes size).Dispose())
                Must.contain "can't allocate memory" error.Message

            use x = bytes 1_000_000L
            Must.equal 1_000_000L (x.fill_(1).sum().item<int64>())
        }

        test "threads of all kinds take and give at once" {
            let before = large ()

            let work (seed: int) : unit =
                let random = Random seed

                for _ in 1..200 do
                    use x = bytes (int64 (random.Next(1, 3_000_000)))
                    let value = random.Next 100
                    x.fill_ (value) |> ignore
                    // left to the finaliser thread
                    bytes (int64 (random.Next(300_000, 400_000))) |> ignore
                    Must.equal (int64 value * x.numel ()) (x.sum().item<int64>())

            let failures = Collections.Concurrent.ConcurrentBag<exn>()

            let threads = [
                for seed in 1..4 ->
                    Thread(fun () ->
                        try
                            work seed
                        with error ->
                            failures.Add error
                    )
            ]

            threads |> List.iter _.Start()

            while threads |> List.exists _.IsAlive do
                GC.Collect()
                Thread.Sleep 1

            Must.beEmpty failures
            Must.equal before (large ())
        }

        test "2,000 steps leave the range and resident memory as 50 did" {
            use weight = torch.randn ([| 70_000L |], requires_grad = true)

            for _ in 1..50 do
                step weight

            let before, memory = large (), resident ()

            for _ in 1..2000 do
                step weight

            Must.equal before (large ())
            Must.lie 0.0 (1.05 * float memory) (float (resident ()))
        }

        test "Trim gives free pages back to the system" {
            if Heap.Active then
                using (bytes (1L <<< 28)) (fun x -> x.fill_ (1) |> ignore)
                let before = resident ()
                Heap.Trim()
                Must.lie (200L <<< 20) Int64.MaxValue (before - resident ())

            use x = bytes (1L <<< 28)
            Must.equal 0L (x.zero_().sum().item<int64>())
        }
    ]

// ---- process exit ------------------------------------------------------------------------------------

let private alive = Collections.Generic.List<Tensor>()

/// The body of a child process, which ends in one of several ways while large tensors are alive. Returns the exit code.
let ending (how: string) : int =
    Natives.Load() |> ignore
    use ready = new ManualResetEventSlim()
    let weight = torch.randn ([| 1024L; 1024L |], requires_grad = true)
    alive.AddRange [ for _ in 1..50 -> bytes 1_000_000L ]
    // the native library keeps a graph and a gradient
    alive.Add(weight.matmul(weight).sum())
    alive[alive.Count - 1].backward()

    // libtorch's own threads have allocated and freed, and a thread of the runtime waits while holding a tensor
    let waiting =
        Thread(
            (fun () ->
                use x = torch.ones [| 512L; 512L |]
                x.matmul(x).Dispose()
                ready.Set() |> ignore
                Thread.Sleep Timeout.Infinite
            ),
            IsBackground = true
        )

    waiting.Start()
    ready.Wait()

    // after the heap's own handler, which the first tensor has registered
    AppDomain.CurrentDomain.ProcessExit.Add(fun _ ->
        let before = Heap.Taken
        use late = bytes 1_000_000L
        alive[0].Dispose()

        if late.fill_(1).sum().item<int64>() <> 1_000_000L || Heap.Taken <> before then
            Environment.FailFast "the heap was not closed"
    )

    Console.Out.WriteLine "ready"

    match how with
    | "return" -> 0
    | "exit" ->
        Environment.Exit 0
        1
    | "throw" -> raise (InvalidOperationException "on purpose")
    | _ ->
        Thread.Sleep 60_000
        1

[<DllImport("libc", SetLastError = true)>]
extern int private kill(int pid, int signal)

/// Runs this program as `--ending HOW`; calls `after` when it is ready.
let private ended (how: string) (after: Process -> unit) : int * string =
    let start =
        ProcessStartInfo(nonNull Environment.ProcessPath, RedirectStandardOutput = true, RedirectStandardError = true)

    if Path.GetFileNameWithoutExtension(nonNull Environment.ProcessPath) = "dotnet" then
        start.ArgumentList.Add(Reflection.Assembly.GetExecutingAssembly().Location)

    start.ArgumentList.Add "--ending"
    start.ArgumentList.Add how
    use child = nonNull (Process.Start start)
    let errors = child.StandardError.ReadToEndAsync()

    let rec ready () : unit =
        match child.StandardOutput.ReadLine() with
        | null -> failtest $"the child ended early: {errors.Result}"
        | line when line.TrimEnd() = "ready" -> ()
        | _ -> ready ()

    ready ()
    after child

    if not (child.WaitForExit 30_000) then
        child.Kill()
        failtest "the child did not end"

    child.ExitCode, errors.Result

let private ends =
    testList "Heap at a process's end" [
        test "live tensors do not hinder a return, an exit, an exception that nobody catches, or SIGTERM" {
            let stop (child: Process) = Must.equal 0 (kill (child.Id, Child.terminate))

            [
                "return", ignore, 0, ""
                "exit", ignore, 0, ""
                "throw", ignore, 128 + 6, "on purpose"
                "wait", stop, 128 + Child.terminate, ""
            ]
            |> Child.twoAtATime (fun (how, after, code, says) -> how, ended how after, code, says)
            |> List.iter (fun (how, (gave, errors), code, says) ->
                Must.equal (how, code) (how, gave)
                Must.contain says errors
                Must.hold ((says = "") = (errors = ""))
            )
        }
    ]

let tests = testSequenced (testList "Heap" [ tensors; ends ])
