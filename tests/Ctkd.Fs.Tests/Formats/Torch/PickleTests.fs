module Ctkd.Fs.Tests.PickleTests

open System
open System.Text
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

/// {"data": [[40, 80, 120], [160, 200, 240]] as uint8, "labels": [1, 0], "fine_labels": [1, 0],
/// "filenames": ["a", "\233"]}, as written by Python 3.11 with numpy 1.24.
let private written: string list = [
    // Protocol 0, order C.
    "KGRwMApWZGF0YQpwMQpjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApwMgooY251bXB5Cm5kYXJyYXkKcDMK"
    + "KEkwCnRwNApjX2NvZGVjcwplbmNvZGUKcDUKKFZiCnA2ClZsYXRpbjEKcDcKdHA4ClJwOQp0cDEwClJwMTEKKEkxCihJMgpJ"
    + "Mwp0cDEyCmNudW1weQpkdHlwZQpwMTMKKFZ1MQpwMTQKSTAwCkkwMQp0cDE1ClJwMTYKKEkzClZ8CnAxNwpOTk5JLTEKSS0x"
    + "CkkwCnRwMTgKYkkwMApnNQooVihQeKDI8ApwMTkKZzcKdHAyMApScDIxCnRwMjIKYnNWbGFiZWxzCnAyMwoobHAyNApJMQph"
    + "STAKYXNWZmluZV9sYWJlbHMKcDI1CihscDI2CkkxCmFJMAphc1ZmaWxlbmFtZXMKcDI3CihscDI4ClZhCnAyOQphVukKcDMw"
    + "CmFzLg=="
    // Protocol 1, order C.
    "fXEAKFgEAAAAZGF0YXEBY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcQIoY251bXB5Cm5kYXJyYXkKcQMo"
    + "SwB0cQRjX2NvZGVjcwplbmNvZGUKcQUoWAEAAABicQZYBgAAAGxhdGluMXEHdHEIUnEJdHEKUnELKEsBKEsCSwN0cQxjbnVt"
    + "cHkKZHR5cGUKcQ0oWAIAAAB1MXEOSTAwCkkwMQp0cQ9ScRAoSwNYAQAAAHxxEU5OTkr/////Sv////9LAHRxEmJJMDAKaAUo"
    + "WAkAAAAoUHjCoMOIw7BxE2gHdHEUUnEVdHEWYlgGAAAAbGFiZWxzcRddcRgoSwFLAGVYCwAAAGZpbmVfbGFiZWxzcRldcRoo"
    + "SwFLAGVYCQAAAGZpbGVuYW1lc3EbXXEcKFgBAAAAYXEdWAIAAADDqXEeZXUu"
    // Protocol 2, order C.
    "gAJ9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnED"
    + "SwCFcQRjX2NvZGVjcwplbmNvZGUKcQVYAQAAAGJxBlgGAAAAbGF0aW4xcQeGcQhScQmHcQpScQsoSwFLAksDhnEMY251bXB5"
    + "CmR0eXBlCnENWAIAAAB1MXEOiYiHcQ9ScRAoSwNYAQAAAHxxEU5OTkr/////Sv////9LAHRxEmKJaAVYCQAAAChQeMKgw4jD"
    + "sHETaAeGcRRScRV0cRZiWAYAAABsYWJlbHNxF11xGChLAUsAZVgLAAAAZmluZV9sYWJlbHNxGV1xGihLAUsAZVgJAAAAZmls"
    + "ZW5hbWVzcRtdcRwoWAEAAABhcR1YAgAAAMOpcR5ldS4="
    // Protocol 3, order C.
    "gAN9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnED"
    + "SwCFcQRDAWJxBYdxBlJxByhLAUsCSwOGcQhjbnVtcHkKZHR5cGUKcQlYAgAAAHUxcQqJiIdxC1JxDChLA1gBAAAAfHENTk5O"
    + "Sv////9K/////0sAdHEOYolDBihQeKDI8HEPdHEQYlgGAAAAbGFiZWxzcRFdcRIoSwFLAGVYCwAAAGZpbmVfbGFiZWxzcRNd"
    + "cRQoSwFLAGVYCQAAAGZpbGVuYW1lc3EVXXEWKFgBAAAAYXEXWAIAAADDqXEYZXUu"
    // Protocol 4, order C.
    "gASV2wAAAAAAAAB9lCiMBGRhdGGUjBVudW1weS5jb3JlLm11bHRpYXJyYXmUjAxfcmVjb25zdHJ1Y3SUk5SMBW51bXB5lIwH"
    + "bmRhcnJheZSTlEsAhZRDAWKUh5RSlChLAUsCSwOGlGgFjAVkdHlwZZSTlIwCdTGUiYiHlFKUKEsDjAF8lE5OTkr/////Sv//"
    + "//9LAHSUYolDBihQeKDI8JR0lGKMBmxhYmVsc5RdlChLAUsAZYwLZmluZV9sYWJlbHOUXZQoSwFLAGWMCWZpbGVuYW1lc5Rd"
    + "lCiMAWGUjALDqZRldS4="
    // Protocol 0, order F.
    "KGRwMApWZGF0YQpwMQpjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApwMgooY251bXB5Cm5kYXJyYXkKcDMK"
    + "KEkwCnRwNApjX2NvZGVjcwplbmNvZGUKcDUKKFZiCnA2ClZsYXRpbjEKcDcKdHA4ClJwOQp0cDEwClJwMTEKKEkxCihJMgpJ"
    + "Mwp0cDEyCmNudW1weQpkdHlwZQpwMTMKKFZ1MQpwMTQKSTAwCkkwMQp0cDE1ClJwMTYKKEkzClZ8CnAxNwpOTk5JLTEKSS0x"
    + "CkkwCnRwMTgKYkkwMQpnNQooViigUMh48ApwMTkKZzcKdHAyMApScDIxCnRwMjIKYnNWbGFiZWxzCnAyMwoobHAyNApJMQph"
    + "STAKYXNWZmluZV9sYWJlbHMKcDI1CihscDI2CkkxCmFJMAphc1ZmaWxlbmFtZXMKcDI3CihscDI4ClZhCnAyOQphVukKcDMw"
    + "CmFzLg=="
    // Protocol 1, order F.
    "fXEAKFgEAAAAZGF0YXEBY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcQIoY251bXB5Cm5kYXJyYXkKcQMo"
    + "SwB0cQRjX2NvZGVjcwplbmNvZGUKcQUoWAEAAABicQZYBgAAAGxhdGluMXEHdHEIUnEJdHEKUnELKEsBKEsCSwN0cQxjbnVt"
    + "cHkKZHR5cGUKcQ0oWAIAAAB1MXEOSTAwCkkwMQp0cQ9ScRAoSwNYAQAAAHxxEU5OTkr/////Sv////9LAHRxEmJJMDEKaAUo"
    + "WAkAAAAowqBQw4h4w7BxE2gHdHEUUnEVdHEWYlgGAAAAbGFiZWxzcRddcRgoSwFLAGVYCwAAAGZpbmVfbGFiZWxzcRldcRoo"
    + "SwFLAGVYCQAAAGZpbGVuYW1lc3EbXXEcKFgBAAAAYXEdWAIAAADDqXEeZXUu"
    // Protocol 2, order F.
    "gAJ9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnED"
    + "SwCFcQRjX2NvZGVjcwplbmNvZGUKcQVYAQAAAGJxBlgGAAAAbGF0aW4xcQeGcQhScQmHcQpScQsoSwFLAksDhnEMY251bXB5"
    + "CmR0eXBlCnENWAIAAAB1MXEOiYiHcQ9ScRAoSwNYAQAAAHxxEU5OTkr/////Sv////9LAHRxEmKIaAVYCQAAACjCoFDDiHjD"
    + "sHETaAeGcRRScRV0cRZiWAYAAABsYWJlbHNxF11xGChLAUsAZVgLAAAAZmluZV9sYWJlbHNxGV1xGihLAUsAZVgJAAAAZmls"
    + "ZW5hbWVzcRtdcRwoWAEAAABhcR1YAgAAAMOpcR5ldS4="
    // Protocol 3, order F.
    "gAN9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnED"
    + "SwCFcQRDAWJxBYdxBlJxByhLAUsCSwOGcQhjbnVtcHkKZHR5cGUKcQlYAgAAAHUxcQqJiIdxC1JxDChLA1gBAAAAfHENTk5O"
    + "Sv////9K/////0sAdHEOYohDBiigUMh48HEPdHEQYlgGAAAAbGFiZWxzcRFdcRIoSwFLAGVYCwAAAGZpbmVfbGFiZWxzcRNd"
    + "cRQoSwFLAGVYCQAAAGZpbGVuYW1lc3EVXXEWKFgBAAAAYXEXWAIAAADDqXEYZXUu"
    // Protocol 4, order F.
    "gASV2wAAAAAAAAB9lCiMBGRhdGGUjBVudW1weS5jb3JlLm11bHRpYXJyYXmUjAxfcmVjb25zdHJ1Y3SUk5SMBW51bXB5lIwH"
    + "bmRhcnJheZSTlEsAhZRDAWKUh5RSlChLAUsCSwOGlGgFjAVkdHlwZZSTlIwCdTGUiYiHlFKUKEsDjAF8lE5OTkr/////Sv//"
    + "//9LAHSUYohDBiigUMh48JR0lGKMBmxhYmVsc5RdlChLAUsAZYwLZmluZV9sYWJlbHOUXZQoSwFLAGWMCWZpbGVuYW1lc5Rd"
    + "lCiMAWGUjALDqZRldS4="
]

let private latin (text: string) : byte[] = Encoding.Latin1.GetBytes text

let private parse (bytes: byte[]) : Result<PickleValue, Error> = Pickle.parse Numpy.allowed "folder/train" bytes

let private refused (bytes: byte[]) : string =
    match parse bytes with
    | Ok _ -> failwith "it should be refused"
    | Error error ->
        Must.equal (Damaged, "folder/train") (error.Kind, error.Where)
        Must.contain "'train'" error.What
        error.What

let private matrix (value: PickleValue) : int * int * byte list =
    match PickleValue.field "data" value |> Option.map Numpy.byteMatrix with
    | Some(Ok(rows, columns, bytes)) -> rows, columns, List.ofArray (bytes.ToArray())
    | other -> failwith $"no matrix: {other}"

/// A matrix of bytes as written by numpy of Python 2 in protocol 2, with the given import of `_reconstruct`.
let private python2Matrix (owner: string) (order: string) : string =
    $"c{owner}\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\000\x85U\001b\x87Rq\x07(K\001K\002K\003\x86"
    + $"cnumpy\ndtype\nq\x08U\002u1K\000K\001\x87R(K\003U\001|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\000tb"
    + $"{order}U\006(Px\160\200\240tb"

let private examples: byte[] list =
    latin ("\x80\002}U\004data" + python2Matrix "numpy.core.multiarray" "\x88" + "s.")
    :: List.map Convert.FromBase64String written

let private alphabet: string =
    "NIKMJLFGSUTCBVX(0).12)]}tleasudpqrghjcRb\n\000\001\255"
    + "\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97o"

let tests =
    testList "Pickle" [
        test "files of every protocol and both orders give the same array" {
            for base64 in written do
                let value = Convert.FromBase64String base64 |> parse |> Error.orRaise
                Must.equal (2, 3, [ 40uy; 80uy; 120uy; 160uy; 200uy; 240uy ]) (matrix value)
                let labels = PickleValue.field "fine_labels" value |> Option.bind PickleValue.wholes
                Must.equal (Some [ 1L; 0L ]) (Option.map List.ofArray labels)
        }

        testEach
            "arrays of Python 2 and of numpy 2 are read"
            [ "numpy.core.multiarray"; "numpy._core.multiarray" ]
            (fun (owner: string) ->
                let pickle = latin ("\x80\002}q\001(U\004data" + python2Matrix owner "\x89" + "u.")

                Must.equal (2, 3, [ 40uy; 80uy; 120uy; 160uy; 200uy; 240uy ]) (matrix (parse pickle |> Error.orRaise))
            )

        test "scalars of every form are read" {
            let read (text: string) : objnull =
                match parse (latin (text + ".")) with
                | Ok(PickleValue.Whole value) -> box value
                | Ok(PickleValue.Large value) -> box value
                | Ok(PickleValue.Real value) -> box value
                | Ok(PickleValue.Truth value) -> box value
                | Ok(PickleValue.Text value) -> box value
                | Ok(PickleValue.Bytes value) -> box (Encoding.Latin1.GetString value.Span)
                | Ok PickleValue.Nothing -> box "nothing"
                | other -> failwith $"{text}: {other}"

            let expected: (string * objnull) list = [
                "N", "nothing"
                "I-12\n", -12L
                "I01\n", true
                "\x89", false
                "L123456789012L\n", 123456789012L
                "K\255", 255L
                "M\001\002", 513L
                "J\254\255\255\255", -2L
                "\x8a\000", 0L
                "\x8a\001\255", -1L
                "\x8b\002\000\000\000\000\001", 256L
                "\x8a\009\255\255\255\255\255\255\255\255\000", bigint UInt64.MaxValue
                "\x8a\009\000\000\000\000\000\000\000\128\255", Int64.MinValue
                "L-99999999999999999999L\n", -99999999999999999999I
                "F-1.5e3\n", -1500.0
                "G\x3f\xf8\000\000\000\000\000\000", 1.5
                "S'a\\n\\x41\\'b\\\\'\n", "a\nA'b\\"
                "U\002ab", "ab"
                "T\002\000\000\000ab", "ab"
                "C\001a", "a"
                "B\001\000\000\000a", "a"
                "\x8e\001\000\000\000\000\000\000\000a", "a"
                "\x96\001\000\000\000\000\000\000\000a", "a"
                "Va\\u00e9\\U0001F600\n", "a\233\U0001F600"
                "X\002\000\000\000\195\169", "\233"
                "\x8c\001a", "a"
                "\x8d\001\000\000\000\000\000\000\000a", "a"
                "K\001K\0020", 1L
                "K\001(K\002K\0031", 1L
            ]

            for text, value in expected do
                Must.equal value (read text)
        }

        testEach
            "a call of anything else is refused by its name"
            [
                "cos\nsystem\n(S'ls'\ntR.", "os.system"
                "cposix\nsystem\n(S'ls'\ntR.", "posix.system"
                "c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"
                "(S'ls'\nios\nsystem\n.", "os.system"
                "(ios\nsystem\n(S'ls'\no.", "os.system"
                "\x8c\u0002os\x8c\u0006system\x93.", "os.system"
                "cnumpy\nfromfile\n(S'x'\ntR.", "numpy.fromfile"
                "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nI0\nS'b'\ntR.", "nothing but an array"
                "cnumpy\nndarray\n(I4\ntR.", "numpy.ndarray"
                "c_codecs\nencode\n(Vx\nVrot13\ntR.", "Latin-1"
                "S'os'\nS'system'\n\x93.", "no text"
                "](I1\ntR.", "no allowed name"
            ]
            (fun (text: string, name: string) -> Must.contain name (refused (latin text)))

        testEach
            "what is malformed, cut off or too long is refused"
            [
                ""
                "."
                "N"
                "NN"
                "N.N"
                "0."
                "t."
                "(R."
                "N(0."
                "Nb."
                "Na."
                "NNa."
                "NNNs."
                "(Nd."
                "h\u0001."
                "g1\n."
                "gx\n."
                "I1."
                "Ix\n."
                "I9x\n."
                "Fx\n."
                "S'\n."
                "S'\\xg0'\n."
                "S'\\x4'\n."
                "V\\u12\n."
                "V\\UFFFFFFFF\n."
                "X\u0001\u0000\u0000\u0000\u00ff."
                "\u0080\u0006N."
                "\u0097."
                "\u0096\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u007f."
                "\u008b\u00ff\u00ff\u00ff\u00ff."
                "T\u00ff\u00ff\u00ff\u00ff."
                "T\u00ff\u00ff\u00ff\u007f."
                "B\u00ff\u00ff\u00ff\u00ff."
                "\u008e\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff."
                "\u008e\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u007f."
                "\u008d\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u007f."
                "Px\n."
            ]
            (fun (text: string) -> refused (latin text) |> ignore)

        test "a hostile length allocates nothing" {
            let pickle = latin "T\255\255\255\127."
            refused pickle |> ignore
            let before = GC.GetAllocatedBytesForCurrentThread()
            refused pickle |> ignore
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "doubling lists through the memo take no more memory than their instructions" {
            let doubling = String.replicate 60 "(h\001h\001lq\0010h\001"
            let before = GC.GetAllocatedBytesForCurrentThread()
            parse (latin ("]q\001" + doubling + ".")) |> Error.orRaise |> ignore
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "encoding one long text many times copies nothing" {
            let start = "Vlatin1\n\x94V" + String('x', 100_000) + "\n\x94c_codecs\nencode\n\x94"
            let calls = String.replicate 2_000 "h\002h\001h\000\x86R"
            let before = GC.GetAllocatedBytesForCurrentThread()
            parse (latin (start + calls + ".")) |> Error.orRaise |> ignore
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 10_000_000L)
        }

        test "nesting of any depth and a list in itself are only values" {
            let deep = String('(', 200_000) + String('t', 200_000) + "."
            let lists = String.replicate 200_000 "]" + String('a', 199_999) + "."
            let itself = "]q\001h\001a."

            for text in [ deep; lists; itself ] do
                let value = parse (latin text) |> Error.orRaise
                Must.hold ((PickleValue.field "data" value).IsNone)
                Must.hold ((PickleValue.wholes value).IsNone)
                Must.equal (Error "it is no numpy array") (Numpy.byteMatrix value |> Result.map ignore)
        }

        test "too many instructions are refused" {
            let message = refused (latin (String.replicate (Pickle.maxInstructions / 2) "N0" + "N."))
            Must.contain $"{Pickle.maxInstructions} instructions" message
        }

        test "too long an integer is refused" {
            for text in [ "I" + String('9', 300) + "\n."; "\x8b\000\004\000\000" + String('9', 1024) + "." ] do
                Must.contain "more than 256" (refused (latin text))
        }

        testEach
            "what takes too much memory is refused before it is taken"
            [
                "N", "\u0094"
                "", "]"
                "", "}"
                "", "("
                "N", "\u0085"
                "", "K\u0001"
                "", "](l"
                "", "(d"
                "](", "K\u0001"
                "]\u0094", "h\u0000a"
                "", "cnumpy\nndarray\n"
            ]
            (fun (start: string, again: string) ->
                let text = start + String.replicate (3_000_000 / again.Length) again + "."
                let before = GC.GetAllocatedBytesForCurrentThread()
                let bytes = latin text
                let own = GC.GetAllocatedBytesForCurrentThread() - before

                match parse bytes with
                | Ok _ -> ()
                | Error error -> Must.contain "40 MB of memory" error.What

                Must.hold (GC.GetAllocatedBytesForCurrentThread() - before - own < 48_000_000L)
            )

        test "a refused name cannot write into the terminal or fill it" {
            let message = refused (latin ("c\027[31m\nx" + String('y', 5_000) + "\n."))
            Must.lack "\027" message
            Must.hold (message.Length < 500)
        }

        testEach
            "an array whose shape or type does not fit is an error"
            [
                "K\002K\004\x86", "U\002u1", "6"
                "K\002K\003\x86", "U\002i8", "uint8"
                "K\006\x85", "U\002u1", "matrix"
                "J\255\255\255\255J\250\255\255\255\x86", "U\002u1", "matrix"
                "J\255\255\255\127J\255\255\255\127\x86", "U\002u1", "2147483647"
            ]
            (fun (shape: string, dtype: string, reason: string) ->
                let good = python2Matrix "numpy.core.multiarray" "\x89"
                let bad = good.Replace("K\002K\003\x86", shape).Replace("U\002u1", dtype)
                let value = parse (latin ("}U\004data" + bad + "s.")) |> Error.orRaise

                match PickleValue.field "data" value |> Option.map Numpy.byteMatrix with
                | Some(Error message) -> Must.contain reason message
                | other -> failwith $"an error was expected: {other}"
            )

        test "every cut and every changed byte gives a value or an error, never an exception" {
            let tryAll (bytes: byte[]) =
                match parse bytes with
                | Ok value -> PickleValue.field "data" value |> Option.map Numpy.byteMatrix |> ignore
                | Error _ -> ()

            for good in examples do
                for i in 0 .. good.Length - 1 do
                    refused good[.. i - 1] |> ignore

                    for change in [ 1uy; 2uy; 8uy; 0x20uy; 0x80uy; 0xFFuy ] do
                        let bad = Array.copy good
                        bad[i] <- bad[i] ^^^ change
                        tryAll bad
        }

        testPropertyWithConfig (times 3_000) "random instructions never throw"
        <| forAll
            (Gen.listOf (Gen.elements (List.ofSeq alphabet)))
            (fun instructions ->
                let bytes = instructions |> List.map byte |> Array.ofList
                parse bytes |> ignore
                parse (Array.append bytes "."B) |> ignore
            )
    ]
