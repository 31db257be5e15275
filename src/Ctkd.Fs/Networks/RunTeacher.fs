namespace Ctkd.Fs

open FsToolkit.ErrorHandling

/// The teachers that a run's settings name.
[<RequireQualifiedAccess>]
module RunTeacher =

    /// How the settings say that the teachers see the data.
    let private viewOf (s: Settings) (classNames: string list) : Result<TeacherView, Error> =
        let t = s.Teaching

        TeacherView.orderOf t.Classes classNames
        |> Result.map (fun order -> { Size = t.Size; Mean = t.Mean; Std = t.Std; Order = order; Output = t.Output })

    /// Refuses images that the model of a teacher of layers cannot see.
    let private checkSize (view: TeacherView) (data: Splits) (teacher: LoadedModel) : Result<unit, Error> =
        let height, width = TeacherView.seen data.Test.Height data.Test.Width view

        Model.checkInput height width teacher.Model
        |> Result.mapError (fun error -> {
            error with
                Next = $"{error.Next}; --teacher-size resizes the teacher's images alone"
        })

    /// The view with the order of classes by name, where the teacher's record and the data have names and those differ. Refuses
    /// a teacher that lacks one of the data's classes.
    let private byNames (data: Splits) (view: TeacherView) (teacher: LoadedModel) : Result<TeacherView, Error> =
        match teacher.Info with
        | Some { ClassNames = names } when
            view.Order.IsEmpty && not names.IsEmpty && not data.ClassNames.IsEmpty && names <> data.ClassNames
            ->
            match List.except names data.ClassNames with
            | [] ->
                let place name = List.findIndex ((=) name) names
                Ok { view with Order = List.map place data.ClassNames }
            | missing ->
                let some = missing |> List.truncate 5 |> List.map Files.printable |> String.concat ", "

                Error.fail
                    Mismatch
                    $"the teacher {teacher.Model.Name} does not know {missing.Length} of the data's classes: {some}"
                    ""
                    "give a teacher of these classes, or say with --teacher-classes which of its outputs they are"
        | _ -> Ok view

    /// How far the sum of probabilities may lie from 1.
    let private tolerance = 1e-3

    /// Refuses outputs for two images that are no probabilities, where the view says that they are.
    let private checkProbabilities (device: Device) (view: TeacherView) (data: Splits) (teacher: LoadedModel) =
        match teacher.Model.Body with
        | Whole whole when view.Output = TeacherOutput.Probabilities ->
            let height, width = TeacherView.seen data.Test.Height data.Test.Width view

            let rows =
                Tensor.scoped (fun () ->
                    Autograd.noGrad (fun () ->
                        let images = Tensor.zeros DType.Float32 device [| 2L; 3L; int64 height; int64 width |]
                        let outputs = whole.Forward teacher.Weights false images

                        let each =
                            if whole.Shares.IsEmpty then
                                [ outputs.Logits ]
                            else
                                SeveralTeachers.split whole.Shares.Length outputs.Pooled

                        each
                        |> List.collect (fun x ->
                            Tensor.toFloats x |> Array.chunkBySize (Tensor.size 1 x) |> List.ofArray
                        )
                    )
                )

            let isDistribution row = Array.forall (fun p -> p >= 0.0) row && abs (Array.sum row - 1.0) <= tolerance

            match rows |> List.tryFind (isDistribution >> not) with
            | None -> Ok()
            | Some row ->
                Error.fail
                    Mismatch
                    $"{teacher.Model.Name} gives no probabilities: for a uniform image its outputs lie from %g{Array.min row} to %g{Array.max row} and sum to %g{Array.sum row}"
                    ""
                    "leave out --teacher-output probabilities: these are logits"
        | _ -> Ok()

    /// A teacher of the data's classes, from one in its own view.
    let private seeing (device: Device) (view: TeacherView) (data: Splits) (teacher: LoadedModel) =
        result {
            do! checkSize view data teacher
            do! checkProbabilities device view data teacher
            let! view = byNames data view teacher
            let! teacher = Teacher.inView device (data.Mean, data.Std) view teacher

            // Without labels the data have the teacher's classes.
            if teacher.Model.Classes = data.Test.Classes || data.Test.Classes = 0 then
                return teacher
            else
                return!
                    Error.fail
                        Mismatch
                        $"{teacher.Model.Name} knows {teacher.Model.Classes} classes, the data set has {data.Test.Classes}"
                        ""
                        "name the data set that the weights were trained on with --data, or the outputs for its classes with --teacher-classes"
        }

    let private loadOne say (options: WeightsOptions) device (view: TeacherView) (data: Splits) name (path: string) =
        result {
            match! LoadedModel.programIn path with
            | Some(kind, file) ->
                let height, width = TeacherView.seen data.Test.Height data.Test.Width view
                return! Teacher.ofFile say device height width kind file
            | None ->
                let name = if List.contains name NetworkFile.names then None else Some name
                let! teacher, notes = LoadedModel.loadWith options device (Option.filter ((<>) "") name) path
                List.iter say notes
                return teacher
        }

    /// <summary>Loads the teacher that settings name, or the mean of several, in the settings' view of the data.</summary>
    /// <param name="say">Receives what a user should know.</param>
    /// <param name="options">How a file of weights may differ from its model.</param>
    /// <param name="device">Where the teacher runs.</param>
    /// <param name="s">The settings.</param>
    /// <param name="classNames">The data's class names; empty where none are known.</param>
    /// <param name="data">The data.</param>
    let load
        say
        options
        (device: Device)
        (s: Settings)
        (classNames: string list)
        (data: Splits)
        : Result<LoadedModel, Error> =
        result {
            let! view = viewOf s classNames

            let! teachers =
                (s.Teacher, s.TeacherWeights) :: (s.Teaching.Others |> List.map (fun path -> "", path))
                |> List.traverseResultM (fun (name, path) ->
                    loadOne say options device view data name path |> Result.bind (seeing device view data)
                )

            match teachers with
            | [ only ] -> return only
            | several -> return! Teacher.average s.Teaching.Shares several
        }

    /// A teacher of the program's own, on the device and in the settings' view of the data.
    let own (device: Device) (s: Settings) (classNames: string list) (data: Splits) (teacher: LoadedModel) =
        result {
            let! view = viewOf s classNames
            let weights = teacher.Weights |> Tree.map (fun _ x -> Tensor.toDevice device x)
            return! seeing device view data { teacher with Weights = weights }
        }
