namespace Ctkd.Fs.App

open System
open System.Diagnostics
open System.IO
open System.Threading
open Ctkd.Fs

/// This program as a command: its words begin every command line that starts it again.
module Self =

    /// The words that start this program.
    let words: string list =
        let path = Environment.ProcessPath |> Option.ofObj |> Option.defaultValue "ctkd"

        // Run by `dotnet ctkd.dll`, the process is dotnet's.
        if Path.GetFileNameWithoutExtension path = "dotnet" then
            [ path; Path.Combine(AppContext.BaseDirectory, "ctkd.dll") ]
        else
            [ path ]

    /// A command line of this program.
    let line (arguments: string list) : string = words @ arguments |> List.map Shell.word |> String.concat " "

/// A run in a process of its own.
[<NoComparison; NoEquality>]
type private Job = { Run: PlannedRun; Child: Process; Began: int64 }

/// Runs of a sweep in processes of their own: one that crashes or runs out of memory ends alone.
module SweepJobs =

    /// Between two looks at the processes.
    let private pause = TimeSpan.FromMilliseconds 200.0

    /// Seconds that a run may take to write its checkpoint after a stop.
    let private grace = TimeSpan.FromMinutes 10.0

    /// Starts a run. The standard input is its lifeline: when this process ends, however it does, the input ends, and the run
    /// writes a checkpoint and stops. The output goes to its log.
    let private start (folder: string) (threads: int) (number: int) (run: PlannedRun) : Job =
        Directory.CreateDirectory(SweepRun.folder folder run) |> ignore

        let arguments = [ "sweep"; folder; "--task"; string number; "--until-input-ends" ]
        let info = ProcessStartInfo(List.head Self.words)
        List.tail Self.words @ arguments |> List.iter info.ArgumentList.Add
        info.RedirectStandardInput <- true
        info.RedirectStandardOutput <- true
        info.RedirectStandardError <- true

        if threads > 0 && run.Settings.Threads = 0 then
            info.Environment["OMP_NUM_THREADS"] <- string threads

        let log = TextWriter.Synchronized(new StreamWriter(SweepRun.log folder run, true, AutoFlush = true))
        let child = new Process(StartInfo = info)

        let write (line: DataReceivedEventArgs) =
            match line.Data with
            | null -> ()
            | text -> log.WriteLine text

        child.OutputDataReceived.Add write
        child.ErrorDataReceived.Add write
        child.Start() |> ignore
        child.BeginOutputReadLine()
        child.BeginErrorReadLine()

        { Run = run; Child = child; Began = Stopwatch.GetTimestamp() }

    /// Ends the processes that are left: each writes a checkpoint first.
    let private stop (jobs: Job list) : unit =
        for job in jobs do
            job.Child.StandardInput.Close()

        for job in jobs do
            if not (job.Child.WaitForExit grace) then job.Child.Kill true

    /// <summary>Runs all tasks, at most so many at once, each after its teacher. A run that fails does not stop the
    /// others.</summary>
    /// <param name="folder">The sweep's folder.</param>
    /// <param name="jobs">Runs at once.</param>
    /// <param name="runs">All runs of the sweep, in the order of their numbers.</param>
    /// <param name="wanted">Those that are to be run.</param>
    /// <param name="told">Is told of a run that has begun or ended, with the seconds that it took.</param>
    let run
        (folder: string)
        (jobs: int)
        (runs: PlannedRun list)
        (wanted: PlannedRun list)
        (told: PlannedRun -> float option -> unit)
        : unit =
        // Processes that share the processors would wait for each other.
        let threads = if jobs > 1 then max 1 (Environment.ProcessorCount / jobs) else 0
        let number (run: PlannedRun) = 1 + (runs |> List.findIndex (fun other -> other.Name = run.Name))

        let isReady (running: Job list) (waiting: PlannedRun list) (run: PlannedRun) =
            let isTeacher (other: PlannedRun) = other.Name = run.TeacherRun
            not (List.exists isTeacher waiting) && not (running |> List.exists (fun job -> isTeacher job.Run))

        let rec go (running: Job list) (waiting: PlannedRun list) : Job list =
            let ended, running = running |> List.partition _.Child.HasExited

            for job in ended do
                // Also waits for the last lines of its output.
                job.Child.WaitForExit()
                told job.Run (Some(Stopwatch.GetElapsedTime(job.Began).TotalSeconds))
                job.Child.Dispose()

            if Signals.stop () || (running.IsEmpty && waiting.IsEmpty) then
                running
            else
                match waiting |> List.tryFind (isReady running waiting) with
                | Some next when running.Length < jobs ->
                    told next None
                    let job = start folder threads (number next) next
                    go (running @ [ job ]) (waiting |> List.filter (fun other -> other.Name <> next.Name))
                | _ ->
                    Thread.Sleep pause
                    go running waiting

        go [] wanted |> stop
