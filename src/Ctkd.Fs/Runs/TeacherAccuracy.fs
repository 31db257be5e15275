namespace Ctkd.Fs

open System
open System.IO
open System.Security.Cryptography
open System.Text

/// A teacher's accuracy as a file keeps it, with all that decides it.
type KnownAccuracy = { Key: string; Images: int; Correct: int; CorrectTop5: int; Loss: float }

/// Accuracies of teachers that were evaluated before: runs that share a teacher and its test images evaluate it once.
[<RequireQualifiedAccess>]
module TeacherAccuracy =

    /// SHA-256 of a set's images and labels, of photographs of the list of files.
    let private testHash (data: Splits) : string =
        let bytes =
            match PhotoSets.index data.ClassNames data.Test with
            | Some list -> Encoding.UTF8.GetBytes list
            | None -> ImageSet.bytes data.Test

        use hash = IncrementalHash.CreateHash HashAlgorithmName.SHA256
        hash.AppendData bytes
        hash.AppendData(data.Test.Labels |> Array.collect BitConverter.GetBytes)
        Convert.ToHexStringLower(hash.GetHashAndReset())

    /// Everything that decides the accuracy of a teacher, as text.
    let key (s: Settings) (teacherHash: string) (data: Splits) : string =
        let engine = Engine.facts ()

        String.concat "\n" [
            $"teacher {teacherHash}"
            $"test {testHash data}, {data.Test.Height} x {data.Test.Width}, mean {data.Mean}, std {data.Std}"
            $"view {Json.write s.Teaching}, size {s.Photos.Size}"
            $"precision {Names.name s.Precision}, channels last {s.ChannelsLast}, device {s.Device}, TF32 {s.Tf32}"
            $"libtorch {engine.Version}, {Engine.threads ()} threads"
        ]

    /// The accuracy that a folder remembers under the key, or what `compute` returns, which the folder then remembers. Two
    /// processes that compute it at once write the same. A file that cannot be read is computed and written again.
    let remembered (folder: string) (key: string) (compute: unit -> Accuracy) : Result<Accuracy * bool, Error> =
        let name = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes key)).Substring(0, 16)
        let path = Path.Combine(folder, $"teacher-{name}.json")

        let known =
            if File.Exists path then
                Files.read path
                |> Result.bind (Encoding.UTF8.GetString >> Json.read<KnownAccuracy> path)
                |> Result.toOption
                |> Option.filter (fun known -> known.Key = key)
            else
                None

        match known with
        | Some k ->
            let accuracy = {
                Images = k.Images
                Correct = k.Correct
                CorrectTop5 = k.CorrectTop5
                Loss = k.Loss
            }

            Ok(accuracy, true)
        | None ->
            let a = compute ()

            let known: KnownAccuracy = {
                Key = key
                Images = a.Images
                Correct = a.Correct
                CorrectTop5 = a.CorrectTop5
                Loss = a.Loss
            }

            // NaN is no JSON, and a teacher whose outputs are not finite is refused.
            (if Double.IsFinite a.Loss then
                 let text = Json.writeIndented known + "\n" |> Encoding.UTF8.GetBytes
                 Files.replace path (fun stream -> stream.Write(ReadOnlySpan text))
             else
                 Ok())
            |> Result.map (fun () -> a, false)
