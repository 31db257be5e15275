module Ctkd.Fs.Tests.SafetensorsTests

open System
open System.Buffers.Binary
open System.Text
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

/// A stored tensor with these bytes.
let tensor (name: string) (dtype: string) (shape: int64 list) (bytes: byte[]) : StoredTensor = {
    Name = name
    DType = dtype
    Shape = shape
    Bytes = ReadOnlyMemory bytes
}

let private small: SafetensorsFile = {
    Metadata = [ "format", "1"; "state", """{"epoch": 3, "name": "é"}""" ]
    Tensors = [
        tensor "weight" "F32" [ 2L; 3L ] (Array.init 24 byte)
        tensor "steps" "I64" [] (Array.create 8 7uy)
        tensor "none" "BOOL" [ 0L; 4L ] [||]
    ]
}

/// Converts tensors to comparable values.
let plainTensors (tensors: StoredTensor list) : (string * string * int64 list * byte[]) list =
    tensors |> List.map (fun t -> t.Name, t.DType, t.Shape, t.Bytes.ToArray())

/// Converts a file to comparable values.
let private plain (file: SafetensorsFile) = file.Metadata, plainTensors file.Tensors

/// Builds a file by hand: the length of the header, the header, the data.
let private byHand (header: string) (data: byte[]) : byte[] =
    let text = Encoding.UTF8.GetBytes header
    let length = Array.zeroCreate<byte> 8
    BinaryPrimitives.WriteUInt64LittleEndian(Span length, uint64 text.Length)
    Array.concat [ length; text; data ]

/// Bytes per element by type.
let itemSizes: Map<string, int> =
    Map [
        "F64", 8
        "F32", 4
        "BF16", 2
        "F16", 2
        "I64", 8
        "I32", 4
        "I16", 2
        "I8", 1
        "U8", 1
        "BOOL", 1
    ]

let private textGen: Gen<string> =
    let characters = List.ofSeq "abcXYZ019._-/ \"\\\n\té漢<+&" |> List.map string
    Gen.elements ("😀" :: characters) |> Gen.listOf |> Gen.map (String.concat "")

/// Any tensor of any type.
let tensorGen: Gen<StoredTensor> =
    gen {
        let! name = textGen
        let! dtype = Gen.elements (List.ofSeq itemSizes.Keys)
        let! rank = Gen.choose (0, 3)
        let! shape = Gen.listOfLength rank (Gen.choose (0, 4))
        let! bytes = Gen.arrayOfLength (List.fold (*) itemSizes[dtype] shape) (Gen.choose (0, 255))
        return tensor name dtype (List.map int64 shape) (Array.map byte bytes)
    }

let private fileGen: Gen<SafetensorsFile> =
    gen {
        let! metadata = Gen.listOf (Gen.zip textGen textGen)
        let! tensors = Gen.listOf tensorGen

        return {
            Metadata = List.distinctBy fst metadata
            Tensors = List.distinctBy _.Name tensors
        }
    }

let tests =
    testList "Safetensors" [
        testPropertyWithConfig (times 200) "a file comes back from its bytes as it was, in its order"
        <| forAll
            fileGen
            (fun file ->
                let back encode parse = parse "here" (encode file) |> Error.orRaise |> plain
                Must.equal (plain file) (back Safetensors.encode Safetensors.parse)
                Must.equal (plain file) (back Safetensors.encodeSealed Safetensors.parseSealed)
            )

        test "the bytes are those of the standard, the header aligned to eight" {
            let file = {
                Metadata = [ "a", "b" ]
                Tensors = [ tensor "x" "U8" [ 3L ] [| 1uy; 2uy; 3uy |] ]
            }

            let header = """{"__metadata__":{"a":"b"},"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"""
            let padded = header.PadRight((header.Length + 7) / 8 * 8)
            Must.equal (byHand padded [| 1uy; 2uy; 3uy |]) (Safetensors.encode file)
        }

        test "a file of another writer is read in the order of its data" {
            let header =
                """{"b":{"shape":[2],"dtype":"I16","data_offsets":[1,5]},"""
                + """"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]}} """

            let file = Safetensors.parse "here" (byHand header [| 9uy; 1uy; 2uy; 3uy; 4uy |]) |> Error.orRaise
            Must.equal [ "a"; "b" ] (file.Tensors |> List.map _.Name)
            Must.equal [| 1uy; 2uy; 3uy; 4uy |] (file.Tensors[1].Bytes.ToArray())
        }

        testEach
            "a header that is not right is refused with its reason"
            [
                """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", "more than its header"
                """{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}}""", "truncated"
                """{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}""", "gap"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,3]}}""", "needs 4 bytes"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}""", "not at 0"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}""", "two offsets"
                """{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}""", "negative"
                """{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}""", "64-bit"
                """{"a":{"dtype":"U8","shape":"4","data_offsets":[0,4]}}""", "arrays"
                """{"a":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}}""", "numbers"
                """{"a":{"dtype":"Q7","shape":[4],"data_offsets":[0,4]}}""", "'Q7'"
                """{"a":{"dtype":"U8","shape":[4]}}""", "must hold"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}""", "must hold"
                """{"a":4}""", "object"
                """{"__metadata__":{"a":4}}""", "text"
                """{"__metadata__":[]}""", "object"
                """{"__metadata__":{"a":"\ud800"}}""", ""
                """{"__metadata__":{"\ud800":"a"}}""", ""
                """{"__metadata__":{"a":"1","a":"2"}}""", "JSON"
                """{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]}}""", "overflows"
                """{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}""", "JSON"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{}}""", "JSON"
                """{"a":{"dtype":"U8","shape":[[[[[[4]]]]]],"data_offsets":[0,4]}}""", "JSON"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},}""", "JSON"
                """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}} {}""", "JSON"
                """{"a":{"dtype":"F4","shape":[9],"data_offsets":[0,4]}}""", "within a byte"
                """[]""", "begin with {"
                """ {}""", "begin with {"
            ]
            (fun (header: string, reason: string) ->
                let error = errorOf (Safetensors.parse "folder/x.safetensors" (byHand header (Array.zeroCreate 4)))

                Must.equal Damaged error.Kind
                Must.contain "x.safetensors" error.What
                Must.contain reason error.What
            )

        test "tensors that share bytes are refused" {
            let entry name = $"\"{name}\":{{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"
            let header = "{" + entry "a" + "," + entry "b" + "}"
            let error = errorOf (Safetensors.parse "x" (byHand header (Array.zeroCreate 4)))
            Must.contain "overlap" error.What
        }

        test "bad UTF-8, a huge header length and deep nesting are refused" {
            let refused (bytes: byte[]) = Must.equal Damaged ((errorOf (Safetensors.parse "x" bytes)).Kind)
            let metadata = byHand """{"__metadata__":{"a":"?"}}""" [||]
            refused (metadata |> Array.map (fun b -> if b = byte '?' then 0xFFuy else b))
            refused (Array.append (Array.create 8 0xFFuy) "{}"B)
            refused (Array.append [| 0uy; 0uy; 0uy; 0uy; 0uy; 0uy; 0uy; 0x80uy |] "{}"B)
            refused (byHand (String.replicate 100_000 "{\"a\":") [||])
            refused (byHand (String('[', 100_000)) [||])
        }

        test "every single changed byte of a sealed file is an error, never an exception" {
            let good = Safetensors.encodeSealed small

            let changes = [
                yield! [ for bit in 0..7 -> (fun b -> b ^^^ (1uy <<< bit)) ]
                (fun b -> ~~~b)
                (fun b -> b + 1uy)
            ]

            for i in 0 .. good.Length - 1 do
                for change in changes do
                    let bad = Array.copy good
                    bad[i] <- change good[i]
                    Must.equal Damaged ((errorOf (Safetensors.parseSealed "x" bad)).Kind)
        }

        test "every shortened or lengthened file is an error" {
            let plainBytes, sealedBytes = Safetensors.encode small, Safetensors.encodeSealed small

            for length in 0 .. plainBytes.Length - 1 do
                Must.equal Damaged ((errorOf (Safetensors.parse "x" plainBytes[.. length - 1])).Kind)

            for length in 0 .. sealedBytes.Length - 1 do
                Must.equal Damaged ((errorOf (Safetensors.parseSealed "x" sealedBytes[.. length - 1])).Kind)

            Must.equal Damaged ((errorOf (Safetensors.parse "x" (Array.append plainBytes [| 0uy |]))).Kind)
        }

        testPropertyWithConfig (times 200) "random bytes, also behind a true header length, never throw"
        <| fun (bytes: byte[]) ->
            Safetensors.parse "x" bytes |> ignore
            Safetensors.parseSealed "x" bytes |> ignore
            let framed = byHand (Encoding.Latin1.GetString bytes) [||]
            Safetensors.parse "x" framed |> ignore

        testPropertyWithConfig (times 200) "changed text in a header never throws"
        <| fun (places: (int * int) list) ->
            let bad = Safetensors.encode small
            let alphabet = Array.append "{}[]\",:0-9eE.\\u null"B [| 0xFFuy; 0uy |]

            for i, c in places do
                bad[8 + abs i % (bad.Length - 8)] <- alphabet[abs c % alphabet.Length]

            Safetensors.parse "x" bad |> ignore

        test "a header of 90 MB is read in bounded memory, and one over 100 MB is refused" {
            let entry = ""","NAME":{"dtype":"F32","shape":[0,3,3,64],"data_offsets":[0,0]}"""
            let count = 90_000_000 / (entry.Length + 396)

            let header =
                Text
                    .StringBuilder()
                    .Append("{\"__metadata__\":{\"a\":\"b\"}")
                    .Append(String.concat "" (Seq.init count (fun i -> entry.Replace("NAME", $"{i:D400}"))))
                    .Append('}')
                    .ToString()

            let bytes = byHand header [||]
            Must.lie 80_000_000 100_000_000 bytes.Length
            GC.Collect()
            let before = GC.GetTotalMemory true
            let file = Safetensors.parse "x" bytes |> Error.orRaise
            Must.equal (count, [ "a", "b" ]) (file.Tensors.Length, file.Metadata)
            // What is kept, beside a header of 90 MB: no document, only tensors with their names.
            Must.lie 0L 300_000_000L (GC.GetTotalMemory true - before)

            let long = Array.zeroCreate<byte> 100_000_100
            BinaryPrimitives.WriteUInt64LittleEndian(Span long, 100_000_001UL)
            long[8] <- byte '{'
            Must.contain "allowed are 2 to 100000000" (errorOf (Safetensors.parse "x" long)).What
        }

        test "metadata and shapes that would take many times their text are refused" {
            let many = String.concat "," [ for i in 0..100_000 -> $"\"{i}\":\"\"" ]
            let metadata = byHand ("{\"__metadata__\":{" + many + "}}") [||]
            Must.contain "more than 100000 entries" (errorOf (Safetensors.parse "x" metadata)).What
            let shape = String.concat "," (Seq.replicate 65 "0")
            let wide = byHand ("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + shape + "],\"data_offsets\":[0,0]}}") [||]
            Must.contain "64 dimensions" (errorOf (Safetensors.parse "x" wide)).What
        }

        test "a plain file is not accepted as a sealed one, and a sealed one hides its seal" {
            Must.contain "checksum" ((errorOf (Safetensors.parseSealed "x" (Safetensors.encode small))).What)
            let back = Safetensors.encodeSealed small |> Safetensors.parseSealed "x" |> Error.orRaise
            Must.haveNo "sha256" (List.map fst back.Metadata)
            let again = Safetensors.encodeSealed back
            Must.equal (Safetensors.encodeSealed small) again
        }

        test "the seal is the SHA-256 of the file with zeros in its place" {
            let bytes = Safetensors.encodeSealed small
            let text = Encoding.Latin1.GetString bytes
            let start = text.IndexOf("\"sha256\":\"", StringComparison.Ordinal) + 10
            let blank = text.Substring(0, start) + String('0', 64) + text.Substring(start + 64)
            let hash = Security.Cryptography.SHA256.HashData(Encoding.Latin1.GetBytes blank)
            Must.equal (Convert.ToHexString(hash).ToLowerInvariant()) (text.Substring(start, 64))
        }

        test "a value that no file can hold is a mistake of the program" {
            let bad = [
                { small with Tensors = [ tensor "a" "F32" [ 2L ] [| 1uy |] ] }
                { small with Tensors = [ tensor "a" "F31" [ 1L ] [| 1uy |] ] }
                { small with Tensors = [ tensor "__metadata__" "U8" [ 1L ] [| 1uy |] ] }
                { small with Tensors = List.replicate 2 (tensor "a" "U8" [ 1L ] [| 1uy |]) }
                { small with Metadata = [ "a", "1"; "a", "2" ] }
                { small with Metadata = [ "a", string (char 0xD800) ] }
            ]

            for file in bad do
                Must.throwAny<ArgumentException>(fun () -> Safetensors.encode file |> ignore) |> ignore
        }
    ]
