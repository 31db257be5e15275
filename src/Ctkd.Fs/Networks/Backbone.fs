namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling

/// A trained network that turns images into features, which a classifier of one's own classes reads.
[<NoComparison; ReferenceEquality>]
type Backbone = {
    Name: string
    /// Numbers per image.
    Width: int
    /// SHA-256 of what decides the features: the files, and how images are normalised.
    Hash: string
    /// From images [N, 3, H, W], normalised by a mean and std, to features [N, Width].
    Features: float list * float list -> Tensor -> Tensor
}

/// The features of a set of images.
[<NoComparison; ReferenceEquality>]
type ImageFeatures = {
    /// float32 [N, Width].
    Rows: Tensor
    /// int64 [N].
    Labels: Tensor
}

/// Backbones of ONNX files, and teachers that consist of one and a linear classifier.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Backbone =

    /// The files of the NuGet package Microsoft.ML.DnnImageFeaturizer.ResNet18: a network of CNTK, trained on ImageNet, and one
    /// that turns RGB pixels from 0 to 255 into what it takes.
    let private network, preparation = "ResNet18.onnx", "ResNetPreprocess.onnx"

    /// Height and width of images for a network that takes any.
    let private usual = 224

    /// Folders below the given one that are looked into: those of a package of NuGet are as deep.
    let private depth = 5

    /// The file of a name in a folder or below it; of several the last by path, which is that of the newest version.
    let private find (name: string) (folder: string) : string option =
        let options =
            EnumerationOptions(RecurseSubdirectories = true, MaxRecursionDepth = depth, IgnoreInaccessible = true)

        Directory.GetFiles(folder, name, options) |> Array.sort |> Array.tryLast

    /// The network's file and that of its preparation, if there is one in its folder or in one beside that.
    let private filesOf (path: string) : Result<string * string option, Error> =
        let absent () =
            Error.fail
                Missing
                $"there is no {network} in this folder"
                path
                "name the folder or the file of the backbone"

        result {
            let! file =
                if Directory.Exists path then
                    find network path |> Option.map Ok |> Option.defaultWith absent
                else
                    Ok(Path.GetFullPath path)

            match! NetworkFile.kindOf file with
            | Some NetworkFile.Onnx -> ()
            | _ -> return! Error.fail Mismatch "a backbone is an ONNX file, and this is none" file "name another file"

            let folder = string (Path.GetDirectoryName file)

            let beside =
                [ folder; Path.Combine(folder, "..", "ResNetPrepOnnx") ]
                |> List.map (fun folder -> Path.GetFullPath(Path.Combine(folder, preparation)))
                |> List.tryFind File.Exists

            return file, beside
        }

    /// From pixels of 0 to 255 to what the network takes, by a network of its own: its hash and its function.
    let private prepared say (device: Device) (size: int) (path: string) : Result<string * (Tensor -> Tensor), Error> =
        result {
            let! hash, network = ProgramTeacher.openOnnx say device true path

            let run (images: Tensor) : Tensor =
                ProgramTeacher.runOnnx path network device images
                |> Tensor.reshape [| int64 (Tensor.size 0 images); 3L; int64 size; int64 size |]

            return hash, run
        }

    /// <summary>Opens a backbone.</summary>
    /// <param name="say">Receives what a user should know.</param>
    /// <param name="device">Where images and features are.</param>
    /// <param name="path">
    /// An ONNX file whose output is features [N, D], for images normalised by ImageNet's mean and std; or the folder that holds
    /// ResNet18.onnx of the NuGet package Microsoft.ML.DnnImageFeaturizer.ResNet18, with its own preparation of pixels.
    /// </param>
    let load (say: string -> unit) (device: Device) (path: string) : Result<Backbone, Error> =
        result {
            let! file, preparation = filesOf path
            let! hash, network = ProgramTeacher.openOnnx say device false file
            let side = max network.Height network.Width
            let size = if side = 0 then usual else side
            let! whole = ProgramTeacher.ofOnnx file size size device network

            let! prepareHash, prepare, (mean, std) =
                match preparation with
                | None -> Ok("", id, (PhotoSets.imageNetMean, PhotoSets.imageNetStd))
                | Some file ->
                    prepared say device size file
                    |> Result.map (fun (hash, run) -> hash, run, ([ 0.0 ], [ 1.0 / 255.0 ]))

            let view = { TeacherView.direct with Size = size; Mean = mean; Std = std }

            let key = TeacherView.key ([], []) view

            return {
                Name = string (Path.GetFileNameWithoutExtension file)
                Width = whole.Classes
                Hash = Text.Encoding.UTF8.GetBytes $"{hash}\n{prepareHash}\n{key}" |> NetworkFile.hash
                Features =
                    fun scale ->
                        let seen = TeacherView.input device scale view

                        fun images ->
                            let ready = Tensor.toType DType.Float32 images |> seen |> prepare
                            (whole.Forward Tree.empty false ready).Logits
            }
        }

    let private batch = 16

    /// <summary>Computes the features of images, each seen as a whole in its middle.</summary>
    /// <param name="progress">Is told how many images are done.</param>
    /// <param name="stop">Is asked before each batch whether to leave the rest out.</param>
    /// <param name="scale">Mean and std by which the images are normalised.</param>
    /// <param name="feed">The images.</param>
    /// <param name="backbone">The backbone.</param>
    /// <returns>The features, in the current scope; None where it was stopped.</returns>
    let features (progress: int -> unit) stop scale (feed: ImageFeed) (backbone: Backbone) : ImageFeatures option =
        let run = backbone.Features scale
        let rows, labels = ResizeArray<float32>(), ResizeArray<int64>()
        let mutable isWhole = true

        Autograd.noGrad (fun () ->
            ImageFeed.each
                batch
                Int32.MaxValue
                feed
                (fun seen ->
                    if isWhole && stop () then isWhole <- false

                    if isWhole then
                        rows.AddRange(Tensor.toSingles (run seen.Images))
                        labels.AddRange(Tensor.toInt64s seen.Labels)
                        progress labels.Count
                )
        )

        if not isWhole then
            None
        else
            let device = ImageFeed.device feed

            Some {
                Rows = Tensor.ofSingles [ labels.Count; backbone.Width ] (rows.ToArray()) |> Tensor.toDevice device
                Labels = Tensor.ofInt64s [ labels.Count ] (labels.ToArray()) |> Tensor.toDevice device
            }

    /// <summary>A teacher: a linear classifier of a backbone's features.</summary>
    /// <param name="scale">Mean and std by which the student's images are normalised.</param>
    /// <param name="classes">The number of classes.</param>
    /// <param name="classifier">The classifier's weights, on the backbone's device.</param>
    /// <param name="backbone">The backbone.</param>
    let teacher scale (classes: int) (classifier: Tree) (backbone: Backbone) : LoadedModel =
        let run = backbone.Features scale

        let key =
            $"{backbone.Hash}\n{TeacherView.key scale TeacherView.direct}\n{LoadedModel.fingerprint classifier}"

        {
            Teacher.ofFunction $"{backbone.Name} + linear" classes (run >> LinearClassifier.logits classifier) with
                Hash = Some(Text.Encoding.UTF8.GetBytes key |> NetworkFile.hash)
        }
