namespace Ctkd.Fs

open System.IO
open FsToolkit.ErrorHandling

/// Teachers of every kind: trained networks of the program, files of programs, and several at once.
[<RequireQualifiedAccess>]
module Teacher =

    /// <summary>A teacher from its forward pass.</summary>
    /// <param name="name">Appears in reports and messages.</param>
    /// <param name="classes">The number of classes.</param>
    /// <param name="forward">Images [N, 3, H, W], normalised, to logits [N, classes]; runs without gradient.</param>
    /// <returns>A teacher that is known by its logits.</returns>
    let ofFunction (name: string) (classes: int) (forward: Tensor -> Tensor) : LoadedModel =
        let model, weights = Model.ofLogits name classes forward
        { Model = model; Weights = weights; Info = None; Hash = None }

    /// A trained module of TorchSharp as the teacher; sets it to evaluation. It must be on the run's device.
    let ofModule (name: string) (classes: int) (network: ImageModule) : LoadedModel =
        network.eval ()
        ofFunction name classes network.forward

    /// <summary>Loads a teacher from a TorchScript or ONNX file.</summary>
    /// <param name="say">Receives what a user should know of the file.</param>
    /// <param name="device">Where it runs.</param>
    /// <param name="height">Height of the images that it sees.</param>
    /// <param name="width">Their width.</param>
    /// <param name="kind">The kind of the file, see <c>NetworkFile.kindOf</c>.</param>
    /// <param name="path">The file.</param>
    /// <returns>The teacher, or why the file gives none.</returns>
    let ofFile say (device: Device) height width (kind: NetworkFile) (path: string) : Result<LoadedModel, Error> =
        ProgramTeacher.load say device height width kind path
        |> Result.map (fun (whole, hash) -> {
            Model = Model.ofWhole whole
            Weights = Tree.empty
            Info = None
            Hash = Some hash
        })

    // ---- other views

    /// The hash of a teacher in a view; None where its code has none.
    let private viewed (scale: float list * float list) (view: TeacherView) (teacher: LoadedModel) : string option =
        LoadedModel.identity teacher
        |> Option.map (fun identity ->
            System.Text.Encoding.UTF8.GetBytes $"{identity}\n{TeacherView.key scale view}" |> NetworkFile.hash
        )

    /// A program's outputs between the view's input and output.
    let private around (device: Device) scale (view: TeacherView) (whole: Whole) : Whole =
        let input, output = TeacherView.input device scale view, TeacherView.output device view

        let forward weights training images =
            let outputs = whole.Forward weights training (input images)

            if whole.Shares.IsEmpty then
                let logits = output outputs.Logits
                let pooled = if whole.Pooled = 0 then logits else outputs.Pooled
                { outputs with Logits = logits; Pooled = pooled }
            else
                // The order and the logarithm are each teacher's own: the mean is taken last.
                let each = SeveralTeachers.split whole.Shares.Length outputs.Pooled |> List.map output

                {
                    outputs with
                        Logits = SeveralTeachers.logits whole.Shares each
                        Pooled = Tensor.cat 1 each
                }

        {
            whole with
                Forward = forward
                Maps = TeacherView.seenShape view >> whole.Maps
                Classes = if view.Order.IsEmpty then whole.Classes else view.Order.Length
        }

    /// A model of layers behind the view's input, with the classifier's rows in the view's order.
    let private before (device: Device) scale (view: TeacherView) (teacher: LoadedModel) : LoadedModel =
        let { Model = model; Weights = weights } = teacher
        let input = TeacherView.input device scale view

        let body =
            if TeacherView.changesImages scale view then
                Sequence [
                    Custom {
                        Name = "the teacher's view"
                        Declares = []
                        Forward = fun _ _ images -> input images
                        OutputShape = TeacherView.seenShape view
                    }
                    model.Body
                ]
            else
                model.Body

        if view.Order.IsEmpty then
            { teacher with Model = { model with Body = body } }
        else
            let rows (name: string) (x: Tensor) =
                if name = model.Classifier.Weight || name = model.Classifier.Bias then
                    Tensor.scope (fun () ->
                        let order =
                            view.Order |> List.map int64 |> Array.ofList |> Tensor.ofInt64s [ view.Order.Length ]

                        Tensor.indexSelect 0 (Tensor.toDevice (Tensor.device x) order) x
                    )
                else
                    x

            {
                teacher with
                    Model = {
                        model with
                            Body = body
                            Classes = view.Order.Length
                            Classifier = { model.Classifier with Out = view.Order.Length }
                    }
                    Weights = Tree.map rows weights
            }

    /// <summary>Wraps a teacher: its forward pass behind the view's input and before its output.</summary>
    /// <param name="device">Where the teacher runs.</param>
    /// <param name="scale">Mean and std of the data, by which the student's images are normalised.</param>
    /// <param name="view">What differs for the teacher.</param>
    /// <param name="teacher">The teacher.</param>
    /// <returns>
    /// A teacher of the student's images and the data's classes, or an error for an order of other outputs than it has, and for
    /// probabilities of a model whose last layer gives logits.
    /// </returns>
    let inView (device: Device) scale (view: TeacherView) (teacher: LoadedModel) : Result<LoadedModel, Error> =
        let name = teacher.Model.Name

        /// The record, with the classes' names in the view's order.
        let named (info: CheckpointInfo) =
            if view.Order.IsEmpty || info.ClassNames.IsEmpty then
                info
            else
                let names = Array.ofList info.ClassNames

                {
                    info with
                        ClassNames = view.Order |> List.map (Array.get names)
                        Classes = view.Order.Length
                }

        result {
            if view = TeacherView.direct then
                return teacher
            else
                do! TeacherView.checkOrder name teacher.Model.Classes view
                let teacher = { teacher with Info = Option.map named teacher.Info }
                let hash = viewed scale view teacher

                match teacher.Model.Body with
                | Whole whole ->
                    return {
                        teacher with
                            Model = Model.ofWhole (around device scale view whole)
                            Hash = hash
                    }
                | _ when view.Output = TeacherOutput.Probabilities ->
                    return!
                        Error.fail
                            Usage
                            $"{name} gives logits, not probabilities"
                            ""
                            "leave out --teacher-output probabilities"
                | _ -> return { before device scale view teacher with Hash = hash }
        }

    // ---- several

    /// A teacher as one function of images, in float32.
    let private logitsOf (teacher: LoadedModel) : Tensor -> Tensor =
        match teacher.Model.Body with
        | Whole whole -> fun images -> (whole.Forward teacher.Weights false images).Logits
        | _ ->
            let model, weights = FoldBatchNorm.model teacher.Model teacher.Weights
            fun images -> (Model.forward model false weights (Tensor.toType DType.Float32 images)).Logits

    /// <summary>
    /// Several teachers as one: at every temperature T a policy softens each of them, and the mean of the softened outputs,
    /// sum_i w_i softmax(z_i / T), is what the student follows (<c>SeveralTeachers</c>). Its logits are those of the mean at
    /// T = 1, log(sum_i w_i softmax(z_i)) up to a number for each image: what is evaluated, and what policies look at to choose T.
    /// </summary>
    /// <param name="shares">A weight for each teacher, > 0; they are divided by their sum. Empty for equal weights.</param>
    /// <param name="teachers">Two teachers or more, of the same classes.</param>
    /// <returns>One teacher, which shows logits only.</returns>
    let average (shares: float list) (teachers: LoadedModel list) : Result<LoadedModel, Error> =
        let shares = if shares.IsEmpty then teachers |> List.map (fun _ -> 1.0) else shares
        let classes = teachers |> List.map _.Model.Classes |> List.distinct
        let names = teachers |> List.map _.Model.Name

        if teachers.Length < 2 || shares.Length <> teachers.Length then
            Error.fail
                Usage
                $"there are {teachers.Length} teachers and {shares.Length} weights for them"
                ""
                "give two teachers or more, and a weight for each: --teacher A B --teacher-weights 0.5 0.5"
        elif classes.Length > 1 then
            let text = teachers |> List.map (fun t -> $"{t.Model.Name} {t.Model.Classes}") |> String.concat ", "

            Error.fail
                Mismatch
                $"the teachers know different numbers of classes: {text}"
                ""
                "give teachers of the same classes"
        else
            let total = List.sum shares
            let shares = shares |> List.map (fun share -> share / total)
            let runs = List.map logitsOf teachers

            let forward _ _ (images: Tensor) =
                let logits = runs |> List.map (fun run -> run images)

                {
                    Features = []
                    Pooled = Tensor.cat 1 logits
                    Logits = SeveralTeachers.logits shares logits
                }

            let identities = teachers |> List.map LoadedModel.identity

            let hash =
                if List.forall Option.isSome identities then
                    [ for share, identity in List.zip shares identities -> $"{string share} {identity.Value}" ]
                    |> String.concat "\n"
                    |> System.Text.Encoding.UTF8.GetBytes
                    |> NetworkFile.hash
                    |> Some
                else
                    None

            let joined = String.concat " and " names

            let whole = {
                Name = $"the mean of {joined}"
                Declares = []
                Forward = forward
                Maps = fun _ -> []
                Pooled = 0
                Shares = shares
                Classes = classes.Head
            }

            Ok { Model = Model.ofWhole whole; Weights = Tree.empty; Info = None; Hash = hash }
