namespace Ctkd.Fs

open System
open System.IO

/// Where weights are: a file or folder, in an archive the file inside it, and the key of a group of tensors. As text:
/// "FILE", "FILE:INNER", "FILE#KEY" or "FILE:INNER#KEY".
type WeightsPath = {
    File: string
    /// The path inside an archive, with "#KEY" where it has one; empty for none.
    Inner: string
    /// Empty for none.
    Key: string
}

/// Reads and writes these texts.
[<RequireQualifiedAccess>]
module WeightsPath =
    let private exists (path: string) : bool = File.Exists path || Directory.Exists path

    /// The path that a text names. A file whose own name has a ':' or '#' comes first; where no file is there, the text is
    /// the path.
    let parse (text: string) : WeightsPath =
        let whole = { File = text; Inner = ""; Key = "" }

        if exists text then
            whole
        else
            seq { text.Length - 1 .. -1 .. 1 }
            |> Seq.filter (fun i -> text[i] = ':' || text[i] = '#')
            |> Seq.tryFind (fun i -> exists (text.Substring(0, i)))
            |> Option.map (fun i ->
                let file, rest = text.Substring(0, i), text.Substring(i + 1)

                if text[i] = ':' then
                    { File = file; Inner = rest; Key = "" }
                else
                    { File = file; Inner = ""; Key = rest }
            )
            |> Option.defaultValue whole

    let private endings = [ ".pt"; ".pth"; ".th"; ".ckpt"; ".safetensors"; ".onnx"; ".bin"; ".tar"; ".zip"; ".gz" ]

    /// Whether a text names a file and not a model: something is there, or it is written as files are.
    let namesFile (text: string) : bool =
        exists (parse text).File
        || text.IndexOfAny [| '/'; '\\' |] >= 0
        || endings |> List.exists (fun ending -> text.EndsWith(ending, StringComparison.OrdinalIgnoreCase))

    /// The text of a path.
    let text (path: WeightsPath) : string =
        [
            path.File
            if path.Inner <> "" then ":" + path.Inner
            if path.Key <> "" then "#" + path.Key
        ]
        |> String.concat ""

    /// The ways to read an inner path: as it is, and cut at each '#' with a key behind it.
    let innerChoices (path: WeightsPath) : (string * string) list =
        let inner = path.Inner

        (inner, path.Key)
        :: [
            for i in inner.Length - 1 .. -1 .. 1 do
                if inner[i] = '#' then inner.Substring(0, i), inner.Substring(i + 1)
        ]

    /// The absolute path as text; the empty text stays empty.
    let absolute (path: string) : string =
        if path = "" then
            ""
        else
            let parsed = parse path
            text { parsed with File = Path.GetFullPath parsed.File }

    /// The path of a group of the file's tensors, as text.
    let withKey (key: string) (path: WeightsPath) : string = text { path with Key = key }

    /// The path of a file in the archive, as text.
    let within (inner: string) (path: WeightsPath) : string = text { path with Inner = inner; Key = "" }

    /// The name of the file itself, which in an archive is the inner one: for messages, and for code that opens it.
    let fileName (path: WeightsPath) : string =
        string (Path.GetFileName(if path.Inner = "" then path.File else path.Inner))

    /// What to do before Python can open the file: nothing, or to unpack it.
    let unpacking (path: WeightsPath) : string =
        if path.Inner = "" then
            ""
        else
            $"unpack '{fileName path}' from '{Path.GetFileName path.File}'; "
