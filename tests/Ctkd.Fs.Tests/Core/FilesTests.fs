module Ctkd.Fs.Tests.FilesTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

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

/// Converts a file to comparable values.
let private plain (file: SafetensorsFile) =
    file.Metadata, file.Tensors |> List.map (fun t -> t.Name, t.DType, t.Shape, t.Bytes.ToArray())

/// Runs the body in a folder without write permission; for the superuser, in one that the kernel protects.
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

let tests =
    testList "Files" [
        test "a written file is read back and leaves nothing beside it" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.safetensors")
                Safetensors.write path { small with Metadata = [] } |> Error.orRaise
                Safetensors.writeSealed path small |> Error.orRaise
                Must.equal (plain small) (Safetensors.readSealed path |> Error.orRaise |> plain)
                Must.equal [| path |] (Directory.GetFileSystemEntries folder)
            )
        }

        test "whether a file or folder can be written is told before, and leaves nothing" {
            inFolder (fun folder ->
                let path name = Path.Combine(folder, name)
                File.WriteAllText(path "kept", "kept")
                Must.equal (Ok()) (Files.checkWritable (path "new"))
                Must.equal (Ok()) (Files.checkWritable (path "kept"))
                Must.equal "kept" (File.ReadAllText(path "kept"))
                Must.equal (Ok()) (Files.makeFolder folder)
                Must.equal [| path "kept" |] (Directory.GetFileSystemEntries folder)

                for file in [ path "no/file"; path "kept/file"; folder; "/proc/file"; "/dev/null/file" ] do
                    Must.equal Unwritable ((errorOf (Files.checkWritable file)).Kind)

                for file in [ path "kept"; "/proc/folder" ] do
                    Must.equal Unwritable ((errorOf (Files.makeFolder file)).Kind)

                Must.equal (Ok()) (Files.makeFolder (path "a/b"))
                Must.beEmpty (Directory.GetFileSystemEntries(path "a/b"))
            )
        }

        test "the old file is replaced in one step, so that a reader of it reads it to its end" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a")
                File.WriteAllText(path, "old")

                use old =
                    new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite ||| FileShare.Delete)

                Files.replace path (fun stream -> stream.Write("new!"B, 0, 4)) |> Error.orRaise
                use reader = new StreamReader(old)
                Must.equal "old" (reader.ReadToEnd())
                Must.equal "new!" (File.ReadAllText path)
            )
        }

        test "an absent or empty file and a folder are errors that name them" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.safetensors")
                let absent = errorOf (Safetensors.read path)
                Must.equal (Missing, path) (absent.Kind, absent.Where)
                Must.contain "not there either" ((errorOf (Safetensors.read (Path.Combine(path, "b")))).Next)
                File.WriteAllBytes(path, [||])
                let empty = errorOf (Safetensors.read path)
                Must.equal (Damaged, path) (empty.Kind, empty.Where)
                Must.contain "empty" empty.What
                Must.contain "folder" ((errorOf (Safetensors.readSealed folder)).What)
            )
        }

        test "a folder that is missing or a file is named, with the remedy" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "none", "a.safetensors")
                let missing = errorOf (Safetensors.write path small)
                Must.equal (Unwritable, path) (missing.Kind, missing.Where)
                Must.contain "make the folder" missing.Next
                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "x")
                Must.equal Unwritable ((errorOf (Safetensors.write (Path.Combine(file, "a")) small)).Kind)
                Must.equal Unwritable ((errorOf (Safetensors.write folder small)).Kind)
                Must.equal [| file |] (Directory.GetFileSystemEntries folder)
            )
        }

        test "a read-only folder is an error with the remedy" {
            withReadOnlyFolder (fun folder ->
                let path = Path.Combine(folder, "ctkd-test.safetensors")
                let error = errorOf (Safetensors.write path small)
                Must.equal (Unwritable, path) (error.Kind, error.Where)
                Must.contain "another folder" error.Next
                Must.notHold (File.Exists path)
            )
        }

        test "a full disk leaves the old file whole and nothing beside it" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.safetensors")
                Safetensors.writeSealed path small |> Error.orRaise

                // /dev/full raises the exception of a full disk in the middle of writing.
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

                Must.equal (Unwritable, path) (error.Kind, error.Where)
                Must.contain "free space" error.Next
                Must.equal (plain small) (Safetensors.readSealed path |> Error.orRaise |> plain)
                Must.equal [| path |] (Directory.GetFileSystemEntries folder)
            )
        }

        test "an exception of the program while writing passes through and leaves the old file whole" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.safetensors")
                Safetensors.write path small |> Error.orRaise

                let write () = Files.replace path (fun _ -> raise (InvalidOperationException "ours")) |> ignore

                Must.throw<InvalidOperationException> write |> ignore
                Must.equal (plain small) (Safetensors.read path |> Error.orRaise |> plain)
                Must.equal [| path |] (Directory.GetFileSystemEntries folder)
            )
        }
    ]
