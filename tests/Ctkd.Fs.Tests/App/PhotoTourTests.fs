/// The tour with photographs, with a small backbone of the test's own.
module Ctkd.Fs.Tests.PhotoTourTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// A resnet8 whose 24 outputs stand for features, as ONNX for images of 32 x 32.
let private backbone (folder: string) : string =
    let path = Path.Combine(folder, "features.onnx")

    Tensor.scoped (fun () ->
        let model = Zoo.find "resnet8" 24 |> Error.orRaise
        let weights = Calibrated.weights DType.Float32 32 model
        Onnx.write path (OnnxOptions.forSize 32) model weights |> Error.orRaise
    )

    path

let private few: PhotoTour.Sizes = { Epochs = 2; PerClass = 6; Batch = 9 }

let private tour (folder: string) (path: string) : (string * Summary) list =
    PhotoTour.go few (Terminal true) folder Settings.defaults (Some path) |> Error.orRaise

let private teacherOf (path: string) : LoadedModel =
    let backbone = Backbone.load ignore Device.Cpu path |> Error.orRaise
    let data = Datasets.load "cells" None |> Error.orRaise

    let zeros =
        LinearClassifier.declarations backbone.Width 3
        |> List.map (fun d -> d.Name, Tensor.zeros DType.Float32 Device.Cpu (d.Shape |> List.map int64 |> Array.ofList))
        |> Tree.ofSeq

    Backbone.teacher (data.Mean, data.Std) 3 zeros backbone

let tests =
    testList "PhotoTour" [
        test "the tour trains a teacher and three students, of which the taught ones share the teacher's cache" {
            inFolder (fun folder ->
                let out = Path.Combine(folder, "q")
                let runs = tour out (backbone folder)
                Must.equal [ "alone"; "kd-t4"; "ctkd-global" ] (List.map fst runs)

                let teachers = runs |> List.map (fun (_, s) -> s.Teacher |> Option.map _.Images)
                Must.equal [ None; Some 150; Some 150 ] teachers

                for file in [ "teacher/classifier.safetensors"; "report.html"; "ctkd-global/last.safetensors" ] do
                    Must.hold (File.Exists(Path.Combine(out, file)))

                Directory.GetFiles(Path.Combine(out, "teacher-cache"), "*.features") |> Must.single |> ignore

                // Once more: nothing is trained again.
                let before = Runs.files (Path.Combine(out, "alone"))
                let again = tour out (backbone folder)
                Must.equal (runs |> List.map (fun (n, s) -> n, s.Top1)) (again |> List.map (fun (n, s) -> n, s.Top1))
                Must.equal before (Runs.files (Path.Combine(out, "alone")))
            )
        }

        test "a tour does not go on with another backbone" {
            inFolder (fun folder ->
                let out = Path.Combine(folder, "q")
                let path = backbone folder
                tour out path |> ignore

                Tensor.scoped (fun () ->
                    let model = Zoo.find "resnet8" 20 |> Error.orRaise
                    let weights = Calibrated.weights DType.Float32 32 model
                    Onnx.write path (OnnxOptions.forSize 32) model weights |> Error.orRaise
                )

                let error = PhotoTour.go few (Terminal true) out Settings.defaults (Some path) |> errorOf
                Must.equal Mismatch error.Kind
                Must.contain "another backbone" error.What
                Must.contain "--out" error.Next
            )
        }

        test "a damaged classifier is an error and no teacher" {
            inFolder (fun folder ->
                let out = Path.Combine(folder, "q")
                let path = backbone folder
                tour out path |> ignore
                let file = Path.Combine(out, "teacher", "classifier.safetensors")
                let bytes = File.ReadAllBytes file
                bytes[bytes.Length - 1] <- bytes[bytes.Length - 1] ^^^ 1uy
                File.WriteAllBytes(file, bytes)
                let error = PhotoTour.go few (Terminal true) out Settings.defaults (Some path) |> errorOf
                Must.equal Damaged error.Kind
                Must.equal file error.Where
            )
        }

        test "without its backbone the tour says which command restores it" {
            inFolder (fun folder ->
                let packages = [ "NUGET_PACKAGES", Path.Combine(folder, "packages") ]
                let ended = ctkdWith packages folder "quickstart --photos --out q"
                Must.equal 1 ended.Code
                Must.contain "Microsoft.ML.DnnImageFeaturizer.ResNet18" ended.Err
                Must.contain "dotnet fsi build.fsx run quickstart --photos" ended.Err
                Must.contain "--backbone DIR" ended.Err
                let absent = expect 1 folder "quickstart --photos --backbone none.onnx --out q"
                Must.contain "the backbone is not there" absent.Err
                File.WriteAllText(Path.Combine(folder, "text.onnx"), "no network")
                let text = expect 1 folder "quickstart --photos --backbone text.onnx --out q"
                Must.contain "a backbone is an ONNX file" text.Err
                Directory.CreateDirectory(Path.Combine(folder, "empty")) |> ignore
                let empty = expect 1 folder "quickstart --photos --backbone empty --out q"
                Must.contain "there is no ResNet18.onnx in this folder" empty.Err
                Must.notHold (Directory.Exists(Path.Combine(folder, "q")))
            )
        }

        test "a backbone without the tour with photographs is wrong usage" {
            isWrongUsage [ "quickstart --backbone x.onnx", "--backbone is for the tour with photographs" ]
        }

        test "a backbone sees images resized to its size and normalised by ImageNet's mean and std" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let path = backbone folder
                    let backbone = Backbone.load ignore Device.Cpu path |> Error.orRaise
                    Must.equal 24 backbone.Width

                    let pixels =
                        Tensor.ofFloats
                            DType.Float32
                            [ 2; 3; 48; 48 ]
                            (Array.init (2 * 3 * 48 * 48) (fun i -> float (i % 97) / 96.0))

                    let normalised (mean: float list) (std: float list) (x: Tensor) =
                        let row (values: float list) =
                            Tensor.ofFloats DType.Float32 [ 1; 3; 1; 1 ] (Array.ofList values)

                        (x - row mean) / row std

                    let model = Zoo.find "resnet8" 24 |> Error.orRaise
                    let weights = Calibrated.weights DType.Float32 32 model

                    let seen =
                        pixels |> Tensor.resizeImage 32 32 |> normalised PhotoSets.imageNetMean PhotoSets.imageNetStd

                    let expected = Autograd.noGrad (fun () -> (Model.forward model false weights seen).Logits)
                    let mean, std = [ 0.5; 0.4; 0.3 ], [ 0.2; 0.3; 0.4 ]
                    let actual = normalised mean std pixels |> backbone.Features(mean, std)
                    Must.beClose 1e-3 1e-3 (Tensor.toFloats expected) (Tensor.toFloats actual)
                )
            )
        }

        test "a teacher's identity depends on its classifier and its backbone's file" {
            inFolder (fun folder ->
                let path = backbone folder
                let one = teacherOf path |> LoadedModel.identity
                Must.hold one.IsSome
                Must.equal one (teacherOf path |> LoadedModel.identity)

                Tensor.scoped (fun () ->
                    let model = Zoo.find "resnet8" 24 |> Error.orRaise

                    let weights =
                        Calibrated.weights DType.Float32 32 model |> Tree.map (fun _ x -> Tensor.scale 1.5 x)

                    Onnx.write path (OnnxOptions.forSize 32) model weights |> Error.orRaise
                )

                Must.differ one (teacherOf path |> LoadedModel.identity)
            )
        }

        test "a linear classifier separates what is separable, whatever the scale of the features" {
            Tensor.scoped (fun () ->
                let noise = Rng.normals (60 * 5) (Rng.ofSeed 3)
                let labels = Array.init 60 (fun i -> int64 (i % 3))

                // Feature c is large for class c; the last one is constant.
                let rows =
                    Array.init
                        (60 * 5)
                        (fun at ->
                            let i, j = at / 5, at % 5
                            1000.0 * (if j = 4 then 7.0 else noise[at] * 0.2 + (if i % 3 = j then 1.0 else 0.0))
                        )

                let features = Tensor.ofFloats DType.Float32 [ 60; 5 ] rows
                let weights = LinearClassifier.train 3 features (Tensor.ofInt64s [ 60 ] labels)
                let chosen = LinearClassifier.logits weights features |> Tensor.argMax 1 |> Tensor.toInt64s
                Must.equal labels chosen
                let again = LinearClassifier.train 3 features (Tensor.ofInt64s [ 60 ] labels)
                Must.beSameTree weights again
            )
        }

        test "the students of the plan differ in their teacher and policy alone" {
            let plan = PhotoTour.plan PhotoTour.sizes Settings.defaults "q" "teacher"
            Must.equal [ "alone"; "kd-t4"; "ctkd-global" ] (List.map fst plan)

            let without (s: Settings) = { s with Teacher = ""; TeacherCache = ""; Policy = PolicyName.Fixed }
            Must.single (plan |> List.map (snd >> without) |> List.distinct) |> ignore
        }

        test "only the tour with photographs asks for its package, and nothing is compiled or copied of it" {
            let root = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "..", ".."))
            let named = "DnnImageFeaturizer"

            let lines =
                Directory.GetFiles(root, "*.targets")
                |> Seq.append (Directory.GetFiles(root, "*.props"))
                |> Seq.append [ Path.Combine(root, "paket.dependencies") ]
                |> Seq.append (Directory.GetFiles(Path.Combine(root, "src"), "*.?sproj", SearchOption.AllDirectories))
                |> Seq.collect File.ReadAllLines
                |> Seq.filter _.Contains(named)
                |> List.ofSeq

            Must.single lines |> Must.contain "<PackageDownload "
            Must.beEmpty (Directory.GetFiles(programFolder, "*ResNet*", SearchOption.AllDirectories))
        }
    ]
