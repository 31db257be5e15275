namespace Ctkd.Fs

open System

/// Size and normalisation of the images that a student was trained on.
type ImagesSeen = {
    Height: int
    Width: int
    /// Per channel, for pixels from 0 to 1.
    Mean: float list
    Std: float list
    /// Of photographs in evaluation the shorter side, of which the middle is taken; 0 where images have their size.
    ShortSide: int
}

/// The description of a checkpoint, stored beside the tensors.
type CheckpointInfo = {
    Settings: Settings
    Classes: int
    /// Names of the classes in the order of the outputs; empty where none are known.
    ClassNames: string list
    Images: ImagesSeen
    /// SHA-256 of the training and validation images and labels.
    DataHash: string
    /// The epoch in which the run resumes, from 1, and the batches done in it.
    Epoch: int
    Step: int
    Best: Best
    /// The latest test accuracy in percent; 0 before the first evaluation.
    Top1: float
    /// Lines of the metrics file that belong to the state.
    MetricLines: int
    /// SHA-256 of the teacher's weights as they are used; empty without one.
    TeacherHash: string
}

/// What records of checkpoints say.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module CheckpointInfo =

    /// The names of the classes: those on record, or those of a known data set; empty where there are none.
    let classNames (info: CheckpointInfo) : string list =
        if info.ClassNames.IsEmpty then ClassNames.ofData info.Settings.Data else info.ClassNames

/// A checkpoint that was read and whose seal was verified.
[<ReferenceEquality>]
type Checkpoint = { Path: string; Info: CheckpointInfo; Tensors: StoredTensor list }

/// The whole training state as one sealed safetensors file.
[<RequireQualifiedAccess>]
module Checkpoint =
    /// The number of the format. Files of another format were written by another version.
    let format = 5

    let private kind = "ctkd-checkpoint"

    /// Whether metadata are those of a checkpoint.
    let isCheckpoint (metadata: (string * string) list) : bool = List.contains ("kind", kind) metadata

    /// Whether a run of these settings has ended with this checkpoint: no epoch is left, or it has stopped early.
    let hasEnded (s: Settings) (info: CheckpointInfo) : bool =
        Best.isOver s.Epochs (Settings.patience s) info.Epoch info.Step info.Best

    let private entry (path: string) (key: string) (file: SafetensorsFile) : Result<string, Error> =
        match List.tryFind (fun (name, _) -> name = key) file.Metadata with
        | Some(_, value) -> Ok value
        | None ->
            Error.fail
                Damaged
                $"this is not a checkpoint of ctkd: its metadata lacks '{key}'"
                path
                "give a checkpoint that ctkd wrote (last.safetensors or best.safetensors of a run)"

    let private checkFormat (path: string) (text: string) : Result<unit, Error> =
        match Int32.TryParse(text, Globalization.CultureInfo.InvariantCulture) with
        | true, number when number = format -> Ok()
        | true, number when number > 0 ->
            Error.fail
                Mismatch
                $"the checkpoint has format {number}, this version reads {format}"
                path
                "use the version of ctkd that wrote it"
        | _ ->
            Error.fail
                Damaged
                $"the checkpoint's format '{Files.printable text}' is not a known number"
                path
                "write it again"

    /// Refuses numbers that no run has.
    let private plausible (path: string) (info: CheckpointInfo) : Result<CheckpointInfo, Error> =
        let images = info.Images

        let counts = [
            info.Epoch - 1
            info.Step
            info.MetricLines
            info.Classes - 2
            (if info.ClassNames.IsEmpty then 0 else -abs(info.Classes - info.ClassNames.Length))
            images.Height - 1
            images.Width - 1
            images.ShortSide
        ]

        let numbers = [ info.Top1; info.Best.Top1; Best.chosenBy info.Best ] @ images.Mean @ images.Std

        if
            List.forall (fun n -> n >= 0) counts
            && List.forall Double.IsFinite numbers
            && List.forall (fun std -> std > 0.0) images.Std
        then
            Ok info
        else
            Error.fail Damaged "the checkpoint's state holds numbers that no run has" path "write it again"

    /// Writes a state: to a temporary name, flushed to disk, then renamed over the old file. Refuses what could not be read.
    let write (path: string) (info: CheckpointInfo) (state: TrainState) : Result<unit, Error> =
        plausible path info
        |> Result.bind (fun info ->
            {
                Metadata = [ "format", string format; "kind", kind; "state", Json.write info ]
                Tensors = TrainState.toTree state |> Tree.toList |> List.map (fun (name, x) -> Weights.store name x)
            }
            |> Safetensors.writeSealed path
        )

    /// What checkpoints of earlier versions lack.
    let private added: (string * string) list = [ "classNames", "[]"; "images.shortSide", "0"; "best.valTop1", "null" ]

    /// Reads a checkpoint from a file's bytes. Verifies the seal before it uses anything.
    let parse (path: string) (bytes: byte[]) : Result<Checkpoint, Error> =
        Safetensors.parseSealed path bytes
        |> Result.bind (fun file ->
            entry path "format" file
            |> Result.bind (checkFormat path)
            |> Result.bind (fun () -> entry path "state" file)
            |> Result.bind (SettingsTable.readHolderWith<CheckpointInfo> added path)
            |> Result.bind (plausible path)
            |> Result.bind (fun info ->
                Settings.validate (Settings.withKnownNames info.Settings)
                |> Result.map (fun _ -> { Path = path; Info = info; Tensors = file.Tensors })
            )
        )

    /// Reads a checkpoint.
    let read (path: string) : Result<Checkpoint, Error> = Files.read path |> Result.bind (parse path)

    /// With the tensors that earlier versions did not write. In the middle of an epoch its sums so far are not known: NaN, so
    /// that its metrics lack them.
    let private completed (expected: Tree) (checkpoint: Checkpoint) : StoredTensor list =
        let name = TrainState.reportedSums

        match Tree.tryFind name expected with
        | Some fresh when checkpoint.Tensors |> List.forall (fun t -> t.Name <> name) ->
            if checkpoint.Info.Step > 0 then Tensor.fillInto fresh nan
            checkpoint.Tensors @ [ Weights.store name fresh ]
        | _ -> checkpoint.Tensors

    /// Returns the plan's training state, or how the checkpoint's tensors differ from those that the plan needs.
    let restore (plan: TrainingPlan) (checkpoint: Checkpoint) : Result<TrainState, Error> =
        Tensor.scopeWith
            (function
            | Ok state -> TrainState.toTree state |> Tree.leaves |> Seq.ofArray
            | Result.Error _ -> Seq.empty)
            (fun () ->
                let fresh = TrainState.start plan |> TrainState.toTree
                let info = checkpoint.Info

                completed fresh checkpoint
                |> Weights.fit $"a run of {plan.Student.Name}" checkpoint.Path plan.Device (Weights.expectedOf fresh)
                |> Result.map (TrainState.ofTree plan info.Epoch info.Step info.Best)
            )

    /// What precedes the names of the student's weights in the file: of their average where the run keeps one.
    let studentPrefix (checkpoint: Checkpoint) : string =
        let isAveraged (t: StoredTensor) = t.Name.StartsWith(TrainState.averagedWeights, StringComparison.Ordinal)

        if List.exists isAveraged checkpoint.Tensors then
            TrainState.averagedWeights
        else
            "student/"

    /// Returns the student's tensors as stored, under the names of its state_dict: their average where the run keeps one.
    let studentTensors (checkpoint: Checkpoint) : StoredTensor list =
        let prefix = studentPrefix checkpoint

        checkpoint.Tensors
        |> List.filter _.Name.StartsWith(prefix, StringComparison.Ordinal)
        |> List.map (fun t -> { t with Name = t.Name.Substring prefix.Length })

    /// Returns the student's state_dict for a model, or how the two differ.
    let student (model: Model) (dtype: DType) (device: Device) (checkpoint: Checkpoint) : Result<Tree, Error> =
        studentTensors checkpoint
        |> Weights.fit $"model {model.Name}" checkpoint.Path device (Weights.expected dtype (Model.declarations model))
