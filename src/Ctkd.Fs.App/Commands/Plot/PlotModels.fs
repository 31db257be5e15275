namespace Ctkd.Fs.App

open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// What `plot --json` prints.
type PlotResult = {
    Figure: string
    File: string
    /// Names of the curves, or of the classes drawn.
    Series: string list
    /// Of correlation: the mean absolute difference over the pairs of classes.
    Distance: float option
    /// Of tsne: KL(P || Q) in nats.
    Divergence: float option
}

/// What a t-SNE shows beside the model.
type TsneFigure = {
    /// The most test images.
    Images: int
    /// The number of classes, the first ones.
    Classes: int
    /// In pixels.
    Width: int
    Options: TsneOptions
}

module TsneFigure =
    /// 1000 images of ten classes.
    let defaults: TsneFigure = { Images = 1000; Classes = 10; Width = 720; Options = Tsne.defaults }

/// The figures of `plot` that look at trained models.
module PlotModels =

    /// A figure that was written.
    let drawn (figure: string) (out: string) (series: string list) : PlotResult = {
        Figure = figure
        File = out
        Series = series
        Distance = None
        Divergence = None
    }

    let private flags (args: ParseResults<PlotArgs>) : Result<TestFlags, Error> =
        result {
            let! mean, std = Command.normalisation (args.TryGetResult PlotArgs.Mean) (args.TryGetResult PlotArgs.Std)

            let data, dir = Command.dataOf (args.TryGetResult PlotArgs.Data) (args.TryGetResult PlotArgs.Data_Dir)

            return {
                Data = data
                DataDir = dir
                Mean = mean
                Std = std
                Batch = TestFlags.asTrained.Batch
                Precision = F32
            }
        }

    /// A flag's number, checked.
    let within (least: int) (most: int) (name: string) (value: int) : Result<unit, Error> =
        if value < least then
            Command.usage $"{name} must be at least {least}, got {value}" $"give --{name} {least} or more"
        elif value > most then
            Command.usage $"{name} must be at most {most}, got {value}" $"give --{name} {most} or less"
        else
            Ok()

    /// Notes on files are no part of what is drawn.
    let private say (text: string) : unit = System.Console.Error.WriteLine text

    /// The student that --weights names, and how its test images are made.
    let private student (args: ParseResults<PlotArgs>) (device: Device) : Result<LoadedModel * Settings, Error> =
        result {
            match args.TryGetResult PlotArgs.Weights with
            | None -> return! Command.usage "this figure needs a student's weights" "give --weights FILE"
            | Some path ->
                let! flags = flags args
                let options = Command.weightsFor WeightsRole.Any false
                let! trained = Command.load say options device (args.TryGetResult PlotArgs.Model) path
                let! settings = Eval.settings flags trained
                return trained, settings
        }

    /// The names of a model's classes, where they are known.
    let private classNames (trained: LoadedModel) (s: Settings) : string list =
        let names =
            match trained.Info with
            | Some info -> CheckpointInfo.classNames info
            | None -> ClassNames.ofData s.Data

        if names.Length = trained.Model.Classes then names else []

    /// The student's class correlations less the teacher's, on the test images.
    let correlation (args: ParseResults<PlotArgs>) (out: string) (width: int) =
        result {
            do! Command.threads (args.TryGetResult PlotArgs.Threads)
            let! device = Engine.device (args.GetResult(PlotArgs.Device, "cpu"))
            let images = args.GetResult(PlotArgs.Images, System.Int32.MaxValue)
            do! within 2 System.Int32.MaxValue "images" images
            let! trained, s = student args device

            let! teacher =
                Eval.teacher
                    say
                    false
                    device
                    (args.TryGetResult PlotArgs.Teacher_Weights)
                    (args.TryGetResult PlotArgs.Teacher)

            match teacher with
            | None -> return! Command.usage "correlation needs a teacher's weights" "give --teacher-weights FILE"
            | Some teacher ->
                match! LoadedModel.outputs device s images [ trained; teacher ] with
                | [ struct (ofStudent, _); struct (ofTeacher, _) ], _ ->
                    let difference = Correlation.difference ofTeacher ofStudent
                    let distance = Correlation.distance difference

                    do!
                        {
                            Title =
                                $"Class correlations: {trained.Model.Name} less {teacher.Model.Name}, \
                                  mean difference %.3f{distance}"
                            Label = "class"
                            Names = classNames trained s
                            Unit = "difference"
                            Cells = difference
                        }
                        |> HeatMap.standalone width
                        |> Picture.write out

                    return { drawn "correlation" out [] with Distance = Some distance }
                | _ -> return! Error.fail ErrorKind.Usage "two models were expected" "" ""
        }

    /// The student's features of the test images in a plane, as the figure asks: the picture as SVG, the names of the classes, and
    /// KL(P || Q) in nats.
    let tsneOf (figure: TsneFigure) (device: Device) (trained: LoadedModel) (s: Settings) =
        result {
            do! within 1 System.Int32.MaxValue "classes" figure.Classes

            do!
                if figure.Classes <= Scatter.mostClasses then
                    Ok()
                else
                    Command.usage
                        $"at most {Scatter.mostClasses} classes have room, got {figure.Classes}"
                        $"give --classes {Scatter.mostClasses} or less"

            let! shown, labels = LoadedModel.outputs device s System.Int32.MaxValue [ trained ]
            let struct (_, features) = List.head shown

            let chosen =
                Array.zip features labels
                |> Array.filter (fun (_, label) -> label < figure.Classes)
                |> Array.truncate (max 0 figure.Images)

            let most = min Tsne.mostPoints figure.Images
            let perplexity = figure.Options.Perplexity

            do!
                if chosen.Length > most || chosen.Length < 3 then
                    Command.usage
                        $"t-SNE takes 3 to {Tsne.mostPoints} images, got {chosen.Length}"
                        "change --images or --classes"
                elif not (perplexity > 1.0 && perplexity < float (chosen.Length - 1)) then
                    Command.usage
                        $"perplexity must be > 1 and below {chosen.Length - 1} for {chosen.Length} images, \
                          got {perplexity}"
                        "give --perplexity 5 to 50, or more images"
                else
                    Ok()

            let points = Array.map fst chosen
            let places = Tsne.run figure.Options points
            let known = classNames trained s

            let names = [
                for label in 0 .. min figure.Classes trained.Model.Classes - 1 ->
                    if not known.IsEmpty then known[label]
                    elif figure.Classes <= 20 then $"class {label}"
                    else string label
            ]

            let picture =
                {
                    Title = $"t-SNE of {trained.Model.Name}'s features: {chosen.Length} test images"
                    Classes = names
                    Points = Array.zip places (Array.map snd chosen) |> List.ofArray
                }
                |> Scatter.standalone figure.Width (figure.Width * 3 / 4)

            return picture, names, Tsne.divergence (Tsne.joint perplexity points) places
        }

    /// Draws the features of the student that the flags name.
    let tsne (args: ParseResults<PlotArgs>) (out: string) (width: int) =
        result {
            do! Command.threads (args.TryGetResult PlotArgs.Threads)
            let! device = Engine.device (args.GetResult(PlotArgs.Device, "cpu"))
            let words = args.TryGetResult PlotArgs.Perplexity |> Option.map List.singleton
            let! perplexity = Command.read (FieldKind.number FieldKind.positive) "perplexity" words
            let d = TsneFigure.defaults

            let figure = {
                Images = args.GetResult(PlotArgs.Images, d.Images)
                Classes = args.GetResult(PlotArgs.Classes, d.Classes)
                Width = width
                Options = {
                    d.Options with
                        Perplexity = Option.defaultValue d.Options.Perplexity perplexity
                        Seed = args.GetResult(PlotArgs.Seed, d.Options.Seed)
                }
            }

            let! trained, s = student args device
            let! picture, names, divergence = tsneOf figure device trained s
            do! Picture.write out picture
            return { drawn "tsne" out names with Divergence = Some divergence }
        }
