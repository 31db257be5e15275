namespace Ctkd.Fs

open System
open System.IO
open System.Runtime.InteropServices
open System.Text

/// Where a run was trained from an epoch on: versions, machine, device.
type RunSession = {
    /// The first epoch that was trained there, from 1.
    Epoch: int
    /// The version of this library.
    Ctkd: string
    Libtorch: string
    /// The processor's name, or its architecture where the system does not tell it.
    Processor: string
    Cores: int
    /// Models of the machine's GPUs, where the run uses one and the system tells them.
    Gpus: string list
    Os: string
    Device: string
    Threads: int
}

/// The teacher of a run: its accuracy on the test images, in percent and nats, and SHA-256 of its weights.
type RecordedTeacher = { Top1: float; Top5: float; Loss: float; Images: int; Hash: string }

/// A run's circumstances, the file `run.json` of its folder: what its settings and metrics do not tell.
type RunRecord = {
    /// The recipe that the run follows; empty for none.
    Recipe: string
    /// Trained parameters of the student.
    StudentParameters: int64
    /// None for a run from labels alone.
    Teacher: RecordedTeacher option
    /// SHA-256 of the training images and labels.
    DataHash: string
    TrainImages: int
    TestImages: int
    /// Where the run was trained, in the order of its epochs; a resume elsewhere adds one.
    Sessions: RunSession list
}

/// Writes and reads the circumstances of runs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module RunRecord =

    /// The value of a field such as "model name : X" in a file of the system's; None where it is not told.
    let private told (field: string) (path: string) : string option =
        try
            File.ReadLines path
            |> Seq.truncate 10_000
            |> Seq.tryFind _.StartsWith(field)
            |> Option.map (fun line -> Files.printable (line.Substring(line.IndexOf ':' + 1).Trim()))
        with
        // Not every system has the file: the name is then not known.
        | :? IOException
        | :? UnauthorizedAccessException -> None

    let private processor () : string =
        told "model name" "/proc/cpuinfo" |> Option.defaultValue $"{RuntimeInformation.ProcessArchitecture}"

    let private gpus () : string list =
        let folder = "/proc/driver/nvidia/gpus"

        if Directory.Exists folder then
            Directory.GetDirectories folder
            |> Array.sort
            |> Array.choose (fun gpu -> told "Model" (Path.Combine(gpu, "information")))
            |> List.ofArray
        else
            []

    let private version: string =
        typeof<RunRecord>.Assembly.GetName().Version
        |> Option.ofObj
        |> Option.map _.ToString(3)
        |> Option.defaultValue ""

    /// Where this process trains a run from an epoch on.
    let private session (epoch: int) (run: PreparedRun) : RunSession = {
        Epoch = epoch
        Ctkd = version
        Libtorch = (Engine.facts ()).Version
        Processor = processor ()
        Cores = Environment.ProcessorCount
        Gpus = if run.Settings.Device = "cpu" then [] else gpus ()
        Os = RuntimeInformation.OSDescription
        Device = run.Settings.Device
        Threads = Engine.threads ()
    }

    let private ofRun (recipe: string) (epoch: int) (run: PreparedRun) : RunRecord = {
        Recipe = recipe
        StudentParameters = Model.parameterCount run.Trainer.Plan.Student
        Teacher =
            run.Teacher
            |> Option.map (fun accuracy -> {
                Top1 = accuracy.Top1
                Top5 = accuracy.Top5
                Loss = accuracy.Loss
                Images = accuracy.Images
                Hash = run.TeacherHash
            })
        DataHash = run.DataHash
        TrainImages = ImageFeed.count run.Trainer.Images
        TestImages = ImageFeed.count run.Feeds.Test
        Sessions = [ session epoch run ]
    }

    let private write (path: string) (record: RunRecord) : Result<unit, Error> =
        let text = Json.writeIndented record + "\n" |> Encoding.UTF8.GetBytes
        Files.replace path (fun stream -> stream.Write(ReadOnlySpan text))

    /// Reads the record of a run; None where there is no such file, as in runs of earlier versions.
    let read (path: string) : Result<RunRecord option, Error> =
        if File.Exists path then
            Files.readText path |> Result.bind (Json.read<RunRecord> path) |> Result.map Some
        else
            Ok None

    /// Writes the record of a run that begins.
    let start (recipe: string) (folder: RunDirectory) (run: PreparedRun) : Result<unit, Error> =
        ofRun recipe 1 run |> write folder.Record

    /// Adds where a run goes on from an epoch, unless that is where it was trained before. A record that cannot be read stays as
    /// it is, with a warning: the run does not need it.
    let goOn (say: string -> unit) (folder: RunDirectory) (epoch: int) (run: PreparedRun) : Result<unit, Error> =
        let here = session epoch run

        match read folder.Record with
        | Ok(Some record) ->
            match List.tryLast record.Sessions with
            | Some last when { last with Epoch = epoch } = here -> Ok()
            | _ -> write folder.Record { record with Sessions = record.Sessions @ [ here ] }
        | Ok None -> ofRun "" epoch run |> write folder.Record
        | Error problem ->
            say $"warning: {folder.Record} is left as it is: {problem.What}"
            Ok()
