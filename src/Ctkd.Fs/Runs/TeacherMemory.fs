namespace Ctkd.Fs

open System
open Ctkd.Onnx

/// A run's teacher cache, by its settings.
[<RequireQualifiedAccess>]
module TeacherMemory =

    /// The key of a cache: everything that decides the bits of the teacher's features.
    let private cacheKey (s: Settings) (teacherHash: string) (dataHash: string) (data: Splits) (plan: TrainingPlan) =
        let numbers (values: float list) = values |> List.map string |> String.concat " "
        let engine = Engine.facts ()

        String.concat "\n" [
            $"teacher {teacherHash}"
            $"data {dataHash}, {ImageSet.count data.Train} images of {data.Train.Height} x {data.Train.Width}"
            $"mean {numbers data.Mean}, std {numbers data.Std}"
            $"pad {plan.Pad}, flip {plan.Flip}, batch {s.TeacherAhead * s.Batch}"
            // The cuts of photographs are random numbers of the seed; each epoch has its own.
            if data.Train.Images.IsInFiles then
                $"size {s.Photos.Size}, crop area {s.Photos.CropArea}, seed {s.Seed}"
            $"precision {plan.Precision}, channels last {plan.ChannelsLast}, device {s.Device}"
            $"libtorch {engine.Version} in {engine.Folder}, {Engine.threads ()} threads, fused {Engine.fuses ()}, TF32 {s.Tf32}"
            // A network in a file may be run by ONNX Runtime.
            match plan.Distillation with
            | Some { Model = model } when model.Body.IsWhole ->
                $"ONNX Runtime {OnnxNetwork.Version}, with CUDA {OnnxNetwork.HasCuda}"
            | _ -> ()
            // Another build of the library may compute in another order.
            $"library {typeof<TrainingPlan>.Assembly.ManifestModule.ModuleVersionId}"
        ]

    /// Why a run's teacher cannot be remembered; None where it can.
    let private refusal (teacher: string option) (plan: TrainingPlan) : Error option =
        let readsFeatures (model: Model) =
            model.Body.IsWhole && TrainingPlan.distillers plan |> List.exists (_.Name >> Distillers.readsFeatures)

        let refused what next = Some(Error.create Usage what "" next)

        match plan.Distillation, teacher with
        | None, _ -> None
        | Some _, None ->
            refused
                "teacher-cache knows a teacher by its weights or its file, and this one computes with code of a program's own"
                "leave out the teacher cache"
        | Some { Model = model }, Some _ when readsFeatures model ->
            refused
                $"of {model.Name} teacher-cache remembers the logits alone, and a method reads features"
                "leave out --teacher-cache, or distil by kd or dkd"
        | Some _, Some _ when TeacherOutputs.readsMaps plan ->
            let names = TrainingPlan.distillers plan |> List.filter _.LooksAtMaps |> List.map _.Name
            let names = String.concat ", " names

            refused
                $"teacher-cache remembers pooled features and logits, and {names} looks at the teacher's maps"
                "leave out --teacher-cache, or distil without them"
        | Some _, Some _ -> None

    /// The folder of a run's cache: that of the settings, or the one that runs share, where this run can use it. Each epoch cuts
    /// photographs anew by the seed, so that runs of other seeds would share nothing.
    let private folder (shared: string) (s: Settings) (data: Splits) (plan: TrainingPlan) (refused: Error option) =
        if s.TeacherCache <> "" then s.TeacherCache
        elif refused.IsNone && plan.Mixup.IsNone && not data.Train.Images.IsInFiles then shared
        else ""

    /// <summary>Returns how the teacher works through an epoch by the settings. A cache stays open until `close`; methods that
    /// read the teacher's maps refuse it.</summary>
    /// <param name="shared">A folder for a cache where the settings name none, and the run can use one; empty for none.</param>
    /// <param name="s">The settings.</param>
    /// <param name="teacher">The hash of the teacher; None for code of a program's own.</param>
    /// <param name="dataHash">The hash of the training images.</param>
    /// <param name="data">The data set.</param>
    /// <param name="plan">The run's plan.</param>
    let options
        (shared: string)
        (s: Settings)
        (teacher: string option)
        (dataHash: string)
        (data: Splits)
        (plan: TrainingPlan)
        : Result<TeacherOptions, Error> =
        let simple = { TeacherOutputs.simple with Ahead = s.TeacherAhead }
        let refused = refusal teacher plan

        match plan.Distillation, teacher, folder shared s data plan refused with
        | None, _, _ -> Ok simple
        | Some _, _, _ when plan.Mixup.IsSome && (TrainingPlan.agent plan).IsSome ->
            Error.fail
                Usage
                "the policy's agent blends images itself, and mixup would blend them again"
                ""
                "leave out --mixup"
        | Some _, _, "" -> Ok simple
        | Some { Model = model }, Some teacherHash, folder when refused.IsNone ->
            let format = if s.TeacherCacheHalf then Float16 else Exact
            let budget = int64 (s.TeacherCacheGb * 1e9)
            let key = cacheKey s teacherHash dataHash data plan

            TeacherCache.openFile folder key (TeacherOutputs.width model) budget format
            |> Result.map (fun cache -> { simple with Cache = Some cache })
        | _ -> Result.Error(Option.get refused)

    /// Closes a cache, and says which share of the images it held.
    let close (say: string -> unit) (cache: TeacherCache) : unit =
        // A run that failed before its first step asked for none.
        if cache.Asked > 0L then
            let share = 100.0 * float cache.Found / float cache.Asked
            say $"teacher cache: %.1f{share} %% of {cache.Asked} images were in the cache"

        cache.Full
        |> Option.iter (fun why ->
            say
                $"warning: the teacher cache could not be written any more ({why}); the run went on without it: free space there, or name another folder with --teacher-cache"
        )

        (cache :> IDisposable).Dispose()
