namespace Ctkd.Fs

open FsToolkit.ErrorHandling

/// Students that start from weights in place of drawn values.
[<RequireQualifiedAccess>]
module StudentStart =

    /// <summary>The weights of the settings for a student; a classifier for other classes is drawn anew.</summary>
    /// <param name="say">Receives what was taken, and what is new.</param>
    /// <param name="s">The settings: their file, and the seed of a new classifier.</param>
    /// <param name="student">The student.</param>
    /// <returns>
    /// The weights, and the hash of those that were taken, whatever the seed of a new classifier; None without a file. An
    /// error where other tensors than the classifier's differ.
    /// </returns>
    let private load (say: string -> unit) (s: Settings) (student: Model) : Result<(Tree * string) option, Error> =
        result {
            if s.StudentWeights = "" then
                return None
            else
                let options = { WeightsFit.strict with FreshClassifier = Some s.Seed }

                let! weights, added, notes = LoadedModel.weightsFor options Device.Cpu student s.StudentWeights
                let isTaken name = not (List.contains name added)
                let hash = weights |> Tree.filter isTaken |> LoadedModel.fingerprint
                notes |> List.iter (fun note -> say $"student: {note}")
                say $"student {student.Name} starts from {s.StudentWeights}"
                return Some(weights, hash)
        }

    /// Writes the weights into a state before its first step.
    let private into (state: TrainState) (weights: Tree) : unit =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                for name, target in Tree.toList state.Student do
                    let source = Tree.find name weights |> Tensor.toType (Tensor.dtype target)
                    Tensor.copyInto target (Tensor.toDevice (Tensor.device target) source)
            )
        )

    /// <summary>The state before a run's first step: drawn, or from the weights that the settings name.</summary>
    /// <param name="say">Receives what was taken, and what is new.</param>
    /// <param name="run">The run.</param>
    /// <returns>The run, whose settings then have the weights' hash, and its state.</returns>
    let ofRun (say: string -> unit) (run: PreparedRun) : Result<PreparedRun * TrainState, Error> =
        let s, plan = run.Settings, run.Trainer.Plan

        load say s plan.Student
        |> Result.bind (fun start ->
            match start with
            | None -> Ok(run, TrainState.start plan)
            | Some(_, hash) when s.StudentHash <> "" && s.StudentHash <> hash ->
                Error.fail
                    Mismatch
                    $"the student's weights have the SHA-256 {hash}, and the settings say {s.StudentHash}"
                    s.StudentWeights
                    "give the original file, or leave out studentHash"
            | Some(weights, hash) ->
                let state = TrainState.start plan
                into state weights
                Ok({ run with Settings = { s with StudentHash = hash } }, state)
        )
