module Ctkd.Fs.Tests.FilesTests

open System
open System.IO
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Xunit

let private small: SafetensorsFile = {
    Metadata = [ "epoch", "3" ]
    Tensors = [
        {
            Name = "weight"
            DType = "U8"
            Shape = [ 4L ]
            Bytes = ReadOnlyMemory [| 1uy; 2uy; 3uy; 4uy |]
        }
    ]
}

/// A file as comparable values.
let private plain (file: SafetensorsFile) =
    file.Metadata, file.Tensors |> List.map (fun t -> t.Name, t.DType, t.Shape, t.Bytes.ToArray())

[<Fact>]
let ``a written file is read back and leaves nothing beside it`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "a.safetensors")
        Safetensors.write path { small with Metadata = [] } |> Error.orRaise
        Safetensors.writeSealed path small |> Error.orRaise
        Assert.Equal(plain small, Safetensors.readSealed path |> Error.orRaise |> plain)
        Assert.Equal<string>([| path |], Directory.GetFileSystemEntries folder)
    )

[<Fact>]
let ``the old file is replaced in one step, so that a reader of it reads it to its end`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "a")
        File.WriteAllText(path, "old")

        use old =
            new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite ||| FileShare.Delete)

        Files.replace path (fun stream -> stream.Write("new!"B, 0, 4)) |> Error.orRaise
        use reader = new StreamReader(old)
        Assert.Equal("old", reader.ReadToEnd())
        Assert.Equal("new!", File.ReadAllText path)
    )

[<Fact>]
let ``an absent or empty file and a folder are errors that name them`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "a.safetensors")
        let absent = errorOf (Safetensors.read path)
        Assert.Equal((Missing, path), (absent.Kind, absent.Where))
        Assert.Contains("not there either", (errorOf (Safetensors.read (Path.Combine(path, "b")))).Next)
        File.WriteAllBytes(path, [||])
        let empty = errorOf (Safetensors.read path)
        Assert.Equal((Damaged, path), (empty.Kind, empty.Where))
        Assert.Contains("empty", empty.What)
        Assert.Contains("folder", (errorOf (Safetensors.readSealed folder)).What)
    )

[<Fact>]
let ``a folder that is missing or a file is named, with the remedy`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "none", "a.safetensors")
        let missing = errorOf (Safetensors.write path small)
        Assert.Equal((Unwritable, path), (missing.Kind, missing.Where))
        Assert.Contains("make the folder", missing.Next)
        let file = Path.Combine(folder, "file")
        File.WriteAllText(file, "x")
        Assert.Equal(Unwritable, (errorOf (Safetensors.write (Path.Combine(file, "a")) small)).Kind)
        Assert.Equal(Unwritable, (errorOf (Safetensors.write folder small)).Kind)
        Assert.Equal<string>([| file |], Directory.GetFileSystemEntries folder)
    )

/// A folder into which this user cannot write: for the superuser, whom permissions do not hold, the kernel's.
let private withReadOnlyFolder (body: string -> unit) : unit =
    if Environment.IsPrivilegedProcess then
        body "/sys"
    else
        inFolder (fun folder ->
            File.SetUnixFileMode(folder, UnixFileMode.UserRead ||| UnixFileMode.UserExecute)

            try
                body folder
            finally
                File.SetUnixFileMode(
                    folder,
                    UnixFileMode.UserRead ||| UnixFileMode.UserWrite ||| UnixFileMode.UserExecute
                )
        )

[<Fact>]
let ``a read-only folder is an error with the remedy`` () =
    withReadOnlyFolder (fun folder ->
        let path = Path.Combine(folder, "ctkd-test.safetensors")
        let error = errorOf (Safetensors.write path small)
        Assert.Equal((Unwritable, path), (error.Kind, error.Where))
        Assert.Contains("another folder", error.Next)
        Assert.False(File.Exists path)
    )

[<Fact>]
let ``a full disk leaves the old file whole and nothing beside it`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "a.safetensors")
        Safetensors.writeSealed path small |> Error.orRaise

        // The device that is always full gives the very exception of a full disk, amid the writing.
        let error =
            errorOf (
                Files.replace
                    path
                    (fun stream ->
                        stream.Write(Safetensors.encodeSealed small, 0, 20)
                        use full = new FileStream("/dev/full", FileMode.Open, FileAccess.Write)
                        full.Write(Array.zeroCreate 100_000, 0, 100_000)
                        full.Flush true
                    )
            )

        Assert.Equal((Unwritable, path), (error.Kind, error.Where))
        Assert.Contains("free space", error.Next)
        Assert.Equal(plain small, Safetensors.readSealed path |> Error.orRaise |> plain)
        Assert.Equal<string>([| path |], Directory.GetFileSystemEntries folder)
    )

[<Fact>]
let ``an exception of the program while writing passes through and leaves the old file whole`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "a.safetensors")
        Safetensors.write path small |> Error.orRaise
        let write () = Files.replace path (fun _ -> raise (InvalidOperationException "ours")) |> ignore
        Assert.Throws<InvalidOperationException> write |> ignore
        Assert.Equal(plain small, Safetensors.read path |> Error.orRaise |> plain)
        Assert.Equal<string>([| path |], Directory.GetFileSystemEntries folder)
    )
