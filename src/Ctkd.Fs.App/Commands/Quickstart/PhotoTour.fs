namespace Ctkd.Fs.App

open System
open System.IO
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The tour with photographs: a network trained on ImageNet and a linear classifier teach a small student blood cells.
module PhotoTour =

    /// What the tour trains on and for how long.
    type Sizes = { Epochs: int; PerClass: int; Batch: int }

    /// The tour's own.
    let sizes: Sizes = { Epochs = 80; PerClass = 10; Batch = 10 }

    // The published 0.08 leaves little of a picture that is one cell, and so few images want small steps that end at none.
    let private cropArea, private rate = 0.5, 0.02

    /// The command, as it is typed.
    let command: string = "quickstart --photos"

    // ---- the backbone's files

    /// The folder of the package in NuGet's folder of packages, whatever its version.
    let private packageFolder () : string =
        let packages =
            match Environment.GetEnvironmentVariable "NUGET_PACKAGES" with
            | null
            | "" ->
                let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile
                Path.Combine(home, ".nuget", "packages")
            | folder -> folder

        Path.Combine(packages, "microsoft.ml.dnnimagefeaturizer.resnet18")

    let private backboneOf (given: string option) : Result<string, Error> =
        let next = $"dotnet fsi build.fsx run {command} restores it; or name it with --backbone DIR"

        match given with
        | Some path when Path.Exists path -> Ok path
        | Some path -> Error.fail Missing "the backbone is not there" path next
        | None ->
            let folder = packageFolder ()

            if Directory.Exists folder then
                Ok folder
            else
                Error.fail
                    Missing
                    "the backbone is not on this machine: the NuGet package Microsoft.ML.DnnImageFeaturizer.ResNet18"
                    folder
                    next

    // ---- the teacher

    /// The common settings with all training photographs.
    let private cells (common: Settings) : Settings = {
        common with
            Data = "cells"
            Photos = { common.Photos with Size = Cells.size }
    }

    let private classifierFile (folder: string) : string = Path.Combine(folder, "teacher", "classifier.safetensors")

    let private expected (backbone: Backbone) (data: Splits) : Weights.Expected list =
        LinearClassifier.declarations backbone.Width data.Train.Classes |> Weights.expected DType.Float32

    /// What a classifier's file says of what it was trained on.
    let private origin (backbone: Backbone) (data: Splits) : (string * string) list = [
        "backbone", backbone.Hash
        "data", Settings.fingerprint data
    ]

    /// The classifier of an earlier call, and its accuracy in words.
    let private read
        (device: Device)
        (backbone: Backbone)
        (data: Splits)
        (path: string)
        : Result<Tree * string, Error> =
        result {
            let! file = Safetensors.readSealed path

            if not (origin backbone data |> List.forall (fun entry -> List.contains entry file.Metadata)) then
                return!
                    Error.fail
                        Mismatch
                        "the tour in this folder was begun with another backbone or other photographs"
                        path
                        "give the same --backbone again, or another folder with --out"

            let! weights = Weights.fit "the classifier" path device (expected backbone data) file.Tensors

            return
                weights,
                file.Metadata |> List.tryFind (fst >> (=) "accuracy") |> Option.map snd |> Option.defaultValue ""
        }

    let private accuracy (classifier: Tree) (features: ImageFeatures) : string =
        let chosen = LinearClassifier.logits classifier features.Rows |> Tensor.argMax 1 |> Tensor.toInt64s
        let correct = Array.zip chosen (Tensor.toInt64s features.Labels) |> Array.filter (fun (a, b) -> a = b)
        $"%.2f{100.0 * float correct.Length / float chosen.Length} %% top-1 on {chosen.Length} test images"

    /// Trains the classifier on the features of all training photographs; None where it was stopped.
    let private train (terminal: Terminal) device (backbone: Backbone) (s: Settings) (data: Splits) (path: string) =
        result {
            use feeds = Feeds.create s DType.Float32 device terminal.Say data
            let train, test = feeds.Train.Value, feeds.Test
            let total = ImageFeed.count train + ImageFeed.count test

            let featuresOf (progress: int -> unit) feed =
                Backbone.features progress Signals.stop (data.Mean, data.Std) feed backbone

            let found =
                terminal.Counting
                    "features"
                    (fun progress ->
                        let before = ImageFeed.count train

                        featuresOf (fun count -> progress count total) train
                        |> Option.bind (fun train ->
                            featuresOf (fun count -> progress (before + count) total) test
                            |> Option.map (fun test -> train, test)
                        )
                    )

            match found with
            | None -> return None
            | Some(train, test) ->
                let classifier = LinearClassifier.train data.Train.Classes train.Rows train.Labels
                let accuracy = accuracy classifier test

                do! Files.makeFolder (string (Path.GetDirectoryName path))

                do!
                    Safetensors.writeSealed path {
                        Metadata = origin backbone data @ [ "accuracy", accuracy ]
                        Tensors = Tree.toList classifier |> List.map (fun (name, x) -> Weights.store name x)
                    }

                return Some(classifier, accuracy)
        }

    /// The teacher: from the folder, or trained now. None where it was stopped.
    let private teacherIn (terminal: Terminal) (folder: string) (common: Settings) (path: string) =
        result {
            let s = cells common
            let! device = Engine.device s.Device
            if s.Threads > 0 then Engine.setThreads s.Threads
            let! data = Settings.loadData s
            let! backbone = Backbone.load ignore device path
            let file = classifierFile folder

            let! found =
                if File.Exists file then
                    read device backbone data file |> Result.map Some
                else
                    terminal.Say
                        $"computing {backbone.Width} features of each of {ImageSet.count data.Train} training and {ImageSet.count data.Test} test photographs"

                    train terminal device backbone s data file

            return
                found
                |> Option.map (fun (classifier, accuracy) ->
                    terminal.Say $"teacher: {backbone.Name} with a linear classifier, {accuracy}"
                    Backbone.teacher (data.Mean, data.Std) data.Train.Classes classifier backbone
                )
        }

    // ---- the tour

    /// The students' runs by name: how each changes the settings that are common to all.
    let plan (sizes: Sizes) (common: Settings) (folder: string) (teacher: string) : (string * Settings) list =
        let student = {
            Tour.withEpochs sizes.Epochs (cells common) with
                Student = "resnet8"
                PerClass = sizes.PerClass
                Batch = sizes.Batch
                Photos = { (cells common).Photos with CropArea = cropArea }
                LearningRate = rate
                LrSchedule = RateSchedule.Cosine
        }

        let taught (policy: PolicyName) = {
            student with
                Teacher = teacher
                TeacherCache = Path.Combine(folder, "teacher-cache")
                Policy = policy
        }

        [ "alone", student; "kd-t4", taught PolicyName.Fixed; "ctkd-global", taught PolicyName.CtkdGlobal ]

    let private next = [
        "next, with photographs of your own in DIR/CLASS/*:"
        "  ctkd data check DIR"
        "  ctkd teach --data DIR --size 64 --model resnet20 --out runs/teacher"
        "  ctkd distill --data DIR --size 64 --weights runs/teacher --student resnet8 --out runs/student"
        "a network of your own as an ONNX file teaches, too: --teacher FILE.onnx --teacher-size PIXELS"
    ]

    /// <summary>The tour in a folder.</summary>
    /// <param name="sizes">What it trains on; the command takes <c>sizes</c>.</param>
    /// <param name="terminal">Shows the progress.</param>
    /// <param name="folder">The folder of the runs.</param>
    /// <param name="common">Seed, precision, device and threads.</param>
    /// <param name="backbone">The backbone's file or folder; None for that of the NuGet package.</param>
    /// <returns>The runs that have begun.</returns>
    let go sizes (terminal: Terminal) (folder: string) (common: Settings) (backbone: string option) =
        Tensor.scoped (fun () ->
            result {
                let! path = backboneOf backbone

                terminal.Say
                    $"photographs of blood cells, {Cells.size} x {Cells.size} pixels: a ResNet-18 trained on ImageNet with a linear classifier of all training\nphotographs teaches resnet8 on {sizes.PerClass} photographs a class: alone, with KD at T = 4, and with CTKD's global temperature"

                let! teacher = teacherIn terminal folder common path

                let experiments (teacher: LoadedModel) = [
                    for name, settings in plan sizes common folder teacher.Model.Name ->
                        name,
                        fun hooks -> {
                            Prepare.ofSettings hooks settings with
                                Teacher = if settings.Teacher = "" then None else Some teacher
                        }
                ]

                let! runs =
                    match teacher with
                    | None -> Ok []
                    | Some teacher -> experiments teacher |> Tour.go terminal folder

                let goOn =
                    match backbone with
                    | Some path -> $"{command} --backbone {Shell.word path}"
                    | None -> command

                let! isWhole = Tour.finish terminal folder "Quickstart: photographs of blood cells" 3 goOn runs
                if isWhole then next |> List.iter terminal.Line
                return runs
            }
        )
