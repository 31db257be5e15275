module Ctkd.Fs.Tests.CifarTests

open System
open System.IO
open System.Text
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders

let private imageSize = 3 * 32 * 32

let private write (folder: string) (name: string) (bytes: byte[]) : unit =
    Directory.CreateDirectory folder |> ignore
    File.WriteAllBytes(Path.Combine(folder, name), bytes)

/// The bytes of image `i` of an invented file; every byte depends on image and position.
let private image (seed: int) (i: int) : byte[] =
    Array.init imageSize (fun k -> byte (seed * 31 + i * 7 + k * 13 + k / 1024))

let private images (seed: int) (labels: int list) : byte[] list = List.mapi (fun i _ -> image seed i) labels

// ---- the four layouts

let private binary10 (seed: int) (labels: int list) : byte[] =
    List.map2 (fun label image -> Array.append [| byte label |] image) labels (images seed labels) |> Array.concat

let private binary100 (seed: int) (labels: int list) : byte[] =
    List.map2 (fun label image -> Array.append [| byte (label / 5); byte label |] image) labels (images seed labels)
    |> Array.concat

let private latin (text: string) : byte[] = Encoding.Latin1.GetBytes text
let private int32 (value: int) : byte[] = Array.append "J"B (BitConverter.GetBytes value)

/// A file in Python 2's pickle protocol 2: a dictionary with labels and a matrix of bytes.
let private python (field: string) (seed: int) (labels: int list) : byte[] =
    let data = Array.concat (images seed labels)

    Array.concat [
        latin "\x80\002}q\001(U\011batch_labelq\002U\021training batch 1 of 1"
        latin $"U{char field.Length}{field}](" |> Array.append (latin "q\003")
        Array.concat (labels |> List.map int32)
        latin "eU\004datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\000\x85U\001b\x87R(K\001"
        int32 labels.Length
        int32 imageSize
        latin "\x86cnumpy\ndtype\nU\002u1K\000K\001\x87R"
        latin "(K\003U\001|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\000tb\x89"
        Array.append "T"B (BitConverter.GetBytes data.Length)
        data
        latin "tbu."
    ]

let private batches: int list list = [ for i in 0..4 -> [ i; i + 1; i + 2 ] ]
let private test10 = [ 9; 0 ]
let private train100 = [ 0; 99; 17; 5 ]
let private test100 = [ 42 ]

let private writeBinary10 (folder: string) : unit =
    batches |> List.iteri (fun i labels -> write folder $"data_batch_{i + 1}.bin" (binary10 i labels))

    write folder "test_batch.bin" (binary10 9 test10)

let private writePython10 (folder: string) : unit =
    batches |> List.iteri (fun i labels -> write folder $"data_batch_{i + 1}" (python "labels" i labels))

    write folder "test_batch" (python "labels" 9 test10)

let private writeBinary100 (folder: string) : unit =
    write folder "train.bin" (binary100 1 train100)
    write folder "test.bin" (binary100 2 test100)

let private writePython100 (folder: string) : unit =
    write folder "train" (python "fine_labels" 1 train100)
    write folder "test" (python "fine_labels" 2 test100)

let private isTen (splits: Splits) : unit =
    Must.equal (Array.ofList (List.concat batches)) splits.Train.Labels
    Must.equal (Array.concat (batches |> List.mapi images |> List.concat)) (ImageSet.bytes splits.Train)
    Must.equal (Array.ofList test10) splits.Test.Labels
    Must.equal (Array.concat (images 9 test10)) (ImageSet.bytes splits.Test)

    Must.equal (10, 3, 32, 32) (splits.Train.Classes, splits.Train.Channels, splits.Train.Height, splits.Test.Width)

    Must.equal [ 0.4914; 0.4822; 0.4465 ] splits.Mean
    Must.equal [ 0.2470; 0.2435; 0.2616 ] splits.Std

let private isHundred (splits: Splits) : unit =
    Must.equal (Array.ofList train100) splits.Train.Labels
    Must.equal (Array.concat (images 1 train100)) (ImageSet.bytes splits.Train)
    Must.equal (Array.ofList test100) splits.Test.Labels
    Must.equal (Array.concat (images 2 test100)) (ImageSet.bytes splits.Test)
    Must.equal (100, 4, true) (splits.Train.Classes, splits.Pad, splits.Flip)
    Must.equal [ 0.5071; 0.4867; 0.4408 ] splits.Mean
    Must.equal [ 0.2675; 0.2565; 0.2761 ] splits.Std

// ---- mistakes

/// Checks that an error gives the place and what to fetch.
let private names (kind: ErrorKind) (where: string) (parts: string list) (error: Error) : unit =
    Must.equal (kind, where) (error.Kind, error.Where)
    parts |> List.iter (fun part -> Must.contain part error.What)
    Must.contain "https://www.cs.toronto.edu/~kriz/cifar.html" error.Next

let tests =
    testList "Cifar" [
        testEach
            "CIFAR-10 is read from the binary files"
            [ ""; "cifar-10-batches-bin" ]
            (fun (place: string) ->
                inFolder (fun folder ->
                    writeBinary10 (Path.Combine(folder, place))
                    Cifar.read10 folder |> Error.orRaise |> isTen
                )
            )

        testEach
            "CIFAR-10 is read from the Python files"
            [ ""; "cifar-10-batches-py" ]
            (fun (place: string) ->
                inFolder (fun folder ->
                    writePython10 (Path.Combine(folder, place))
                    Cifar.read10 folder |> Error.orRaise |> isTen
                )
            )

        testEach
            "CIFAR-100 is read from the binary files"
            [ ""; "cifar-100-binary" ]
            (fun (place: string) ->
                inFolder (fun folder ->
                    writeBinary100 (Path.Combine(folder, place))
                    Cifar.read100 folder |> Error.orRaise |> isHundred
                )
            )

        testEach
            "CIFAR-100 is read from the Python files"
            [ ""; "cifar-100-python" ]
            (fun (place: string) ->
                inFolder (fun folder ->
                    writePython100 (Path.Combine(folder, place))
                    Cifar.read100 folder |> Error.orRaise |> isHundred
                )
            )

        test "a complete layout is preferred to a part of another" {
            inFolder (fun folder ->
                writePython100 (Path.Combine(folder, "cifar-100-python"))
                write folder "train.bin" [| 1uy |]
                Cifar.read100 folder |> Error.orRaise |> isHundred
            )
        }

        test "an absent set names where it is published, and the size and MD5 to expect" {
            inFolder (fun folder ->
                let error = errorOf (Cifar.load100 folder)
                names Missing folder [ "CIFAR-100"; "none of its files" ] error

                Must.contain
                    "cifar-100-python.tar.gz (169001437 bytes, MD5 eb9058c3a382ffc7106e4002c42a8d85)"
                    error.Next

                Must.contain
                    "cifar-100-binary.tar.gz (168513733 bytes, MD5 03b5dce01913d631647c71ecec9e9cb8)"
                    error.Next

                let none = Path.Combine(folder, "none")
                let absent = errorOf (Cifar.load10 none)
                names Missing none [ "CIFAR-10"; "does not exist" ] absent

                Must.contain
                    "cifar-10-python.tar.gz (170498071 bytes, MD5 c58f30108f718f92721af3b95e74349a)"
                    absent.Next

                Must.contain
                    "cifar-10-binary.tar.gz (170052171 bytes, MD5 c32a1d4ab5d03f1284b67883e8d87530)"
                    absent.Next
            )
        }

        test "a missing file of a set is named" {
            inFolder (fun folder ->
                writeBinary10 folder
                let path = Path.Combine(folder, "data_batch_4.bin")
                File.Delete path
                names Missing path [ "not complete"; "data_batch_4.bin" ] (errorOf (Cifar.load10 folder))
                writePython100 folder
                let test = Path.Combine(folder, "test")
                File.Delete test
                names Missing test [ "not complete"; "'test'" ] (errorOf (Cifar.load100 folder))
            )
        }

        test "a truncated binary file says the size found and expected" {
            inFolder (fun folder ->
                writeBinary100 folder
                let path = Path.Combine(folder, "train.bin")
                File.WriteAllBytes(path, (File.ReadAllBytes path)[.. 4 * 3074 - 2])

                let parts = [ "'train.bin'"; "12295 bytes"; "3 records and 3073 bytes over"; "records of 3074 bytes" ]

                names Damaged path parts (errorOf (Cifar.load100 folder))
                File.WriteAllBytes(path, [||])
                Must.contain "empty" ((errorOf (Cifar.load100 folder)).What)
            )
        }

        test "a set that was cut between two records is refused with the numbers of images, and a whole one is read" {
            inFolder (fun folder ->
                // Zeros are records of class 0, and take no space on disk.
                let zeros (name: string) (records: int) =
                    use file = File.Create(Path.Combine(folder, name))
                    file.SetLength(int64 records * 3074L)

                zeros "train.bin" 50_000
                zeros "test.bin" 10_000
                let splits = Cifar.load100 folder |> Error.orRaise
                Must.equal (50_000, 10_000) (ImageSet.count splits.Train, ImageSet.count splits.Test)

                for train, test in [ 49_999, 10_000; 50_000, 9_999 ] do
                    zeros "train.bin" train
                    zeros "test.bin" test
                    let error = errorOf (Cifar.load100 folder)
                    names Damaged folder [ "not complete"; $"{train} training and {test} test images" ] error
                    Must.contain "--data file" error.Next

                writeBinary10 folder
                Must.contain "15 training and 2 test images" ((errorOf (Cifar.load10 folder)).What)
            )
        }

        test "records of the other set are not taken for its own" {
            inFolder (fun folder ->
                write folder "train.bin" (binary10 1 [ 1; 2; 3 ])
                write folder "test.bin" (binary100 2 test100)

                names
                    Damaged
                    (Path.Combine(folder, "train.bin"))
                    [ "9219 bytes"; "3074" ]
                    (errorOf (Cifar.load100 folder))
            )
        }

        test "a label out of range is named with its record" {
            inFolder (fun folder ->
                writeBinary100 folder
                let train = Path.Combine(folder, "train.bin")
                let bytes = File.ReadAllBytes train
                bytes[2 * 3074 + 1] <- 100uy
                File.WriteAllBytes(train, bytes)

                names Damaged train [ "record 2 (from 0) is 100"; "0 to 99" ] (errorOf (Cifar.load100 folder))

                bytes[3074] <- 20uy
                File.WriteAllBytes(train, bytes)

                names Damaged train [ "coarse label of record 1 (from 0) is 20" ] (errorOf (Cifar.load100 folder))

                writePython10 folder
                write folder "data_batch_2" (python "labels" 1 [ 1; 10; 3 ])
                let batch = Path.Combine(folder, "data_batch_2")
                names Damaged batch [ "record 1 (from 0) is 10"; "0 to 9" ] (errorOf (Cifar.load10 folder))
                write folder "data_batch_2" (python "labels" 1 [ 1; 2; -3 ])
                names Damaged batch [ "label of record 2" ] (errorOf (Cifar.load10 folder))
            )
        }

        test "a truncated, hostile or other Python file is an error that says what to fetch" {
            inFolder (fun folder ->
                writePython100 folder
                let path = Path.Combine(folder, "train")
                let good = File.ReadAllBytes path

                let refused (bytes: byte[]) (parts: string list) =
                    File.WriteAllBytes(path, bytes)
                    names Damaged path parts (errorOf (Cifar.load100 folder))

                refused good[..5000] [ "truncated" ]
                refused (latin "cos\nsystem\n(S'ls'\ntR.") [ "os.system" ]
                refused (latin "}.") [ "'data'" ]
                refused (python "labels" 1 train100) [ "'fine_labels'" ]

                refused (python "fine_labels" 1 train100 |> Array.map (fun b -> if b = byte 'J' then byte 'G' else b)) []

                refused (latin "]q\001h\001a.") [ "'data'" ]
            )
        }

        test "as many labels as images are needed" {
            inFolder (fun folder ->
                writePython100 folder
                let good = python "fine_labels" 1 [ 1; 2 ]

                let place = (Encoding.Latin1.GetString good).IndexOf("J\002\000\000\000e", StringComparison.Ordinal)

                let shorter = Array.append good[.. place - 1] good[place + 5 ..]
                write folder "train" shorter

                names
                    Damaged
                    (Path.Combine(folder, "train"))
                    [ "2 images and 1 labels" ]
                    (errorOf (Cifar.load100 folder))
            )
        }

        test "random files never throw" {
            inFolder (fun folder ->
                let random = Random 1

                for length in [ 0; 1; 7; 100; 3074; 6148; 10_000 ] do
                    for name in [ "train.bin"; "train" ] do
                        for other in [ "train.bin"; "train" ] do
                            File.Delete(Path.Combine(folder, other))

                        let bytes = Array.zeroCreate<byte> length
                        random.NextBytes bytes
                        write folder name bytes
                        Must.contain (Path.Combine(folder, name)) ((errorOf (Cifar.load100 folder)).Where)
            )
        }
    ]
