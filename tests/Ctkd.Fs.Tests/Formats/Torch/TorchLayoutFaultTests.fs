/// Refused files: the layouts of zip files and of the old format.
module Ctkd.Fs.Tests.TorchLayoutFaultTests

open System
open System.IO.Compression
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.TorchFaultTests
open Ctkd.Fs.Tests.TorchPickles

let private plainZip = zip CompressionLevel.NoCompression
let private pickle = latin ("\x80\002" + window floats 0L [ 6L ] [ 1L ] + ".")

/// Returns where the local header and the directory record of an entry begin.
let private places (name: string) (bytes: byte[]) : int * int =
    let name = latin name

    ReadOnlySpan(bytes).IndexOf(ReadOnlySpan name) - 30, ReadOnlySpan(bytes).LastIndexOf(ReadOnlySpan name) - 46

let tests =
    testList "TorchFault" [
        // ---- zip files ----

        test "a zip file that PyTorch would not write is refused with its reason" {
            let data = "a/data/0", Array.zeroCreate<byte> 24

            for bytes, text in
                [
                    plainZip [ "a/other", pickle ], "without the entry data.pkl"
                    plainZip [ "data.pkl", pickle ], "without the entry data.pkl"
                    plainZip [ "a/data.pkl", pickle ], "'a/data/0' is not there"
                    plainZip [ "a/data.pkl", pickle; "b/data.pkl", pickle ], "several"
                    plainZip [ "a/data.pkl", pickle; data; data ], "twice"
                    plainZip [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 20 ], "5 elements, and 6"
                    plainZip [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 28 ], "7 elements, and 6"
                    plainZip [ "a/data.pkl", pickle; data; "a/byteorder", "big"B ], "big-endian"
                    plainZip [ "a/data.pkl", pickle; data; "a/constants.pkl", "x"B ], "TorchScript"
                    plainZip [ "a/data.pkl", Array.append pickle "."B; data ], "follow its end"
                    plainZip [], ""
                ] do
                Must.contain text (reason bytes)

            plainZip [ "a/data.pkl", pickle; data; "a/byteorder", "little"B; "a/version", "3\n"B ]
            |> TorchFile.parse "x"
            |> Error.orRaise
            |> ignore
        }

        test "a zip file that announces gigabytes is refused before anything is allocated" {
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", Array.create 24 9uy ]
            let sizes = BitConverter.GetBytes 24
            let announced = BitConverter.GetBytes 2_000_000_000
            let bad = Array.copy good

            for i in 0 .. good.Length - 4 do
                if ReadOnlySpan(good, i, 4).SequenceEqual(ReadOnlySpan sizes) then
                    announced.CopyTo(bad, i)

            let before = GC.GetAllocatedBytesForCurrentThread()
            Must.contain "announce" (reason bad)
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "lengths of 64 bits are read, and refused where the file is shorter" {
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", Array.create 24 9uy ]

            /// Moves the sizes of a directory entry to an extra field.
            let widened (length: int64) (bytes: byte[]) (place: int) =
                let name = int (BitConverter.ToUInt16(bytes, place + 28))
                let afterName = place + 46 + name
                let start = Array.copy bytes[.. afterName - 1]
                Array.fill start (place + 20) 8 0xFFuy
                start[place + 30] <- 20uy
                let size = BitConverter.GetBytes length
                Array.concat [ start; [| 1uy; 0uy; 16uy; 0uy |]; size; size; bytes[afterName..] ]

            let place (from: int) (bytes: byte[]) =
                from + ReadOnlySpan(bytes, from, bytes.Length - from).IndexOf(ReadOnlySpan "PK\001\002"B)

            let ended (bytes: byte[]) =
                let directory = bytes.Length - 22
                BitConverter.GetBytes(directory - place 0 bytes).CopyTo(bytes, directory + 12)
                bytes

            // In the first entry, and in the second, whose first is right.
            for length, inFirst, inSecond in
                [
                    Int64.MaxValue - 8L,
                    "'a/data.pkl' announces 9223372036854775799",
                    "'a/data/0' announces 9223372036854775799"
                    int64 UInt32.MaxValue, "'a/data.pkl' announces 4294967295", "'a/data/0' announces 4294967295"
                    23L,
                    "size or checksum of its entry 'a/data.pkl' differs",
                    "size or checksum of its entry 'a/data/0' differs"
                ] do
                let second (bytes: byte[]) = place (place 0 bytes + 4) bytes
                Must.contain inFirst (reason (ended (widened length good (place 0 good))))
                Must.contain inSecond (reason (ended (widened length good (second good))))

            let right = widened (int64 pickle.Length) good (place 0 good)
            let right = widened 24L right (place (place 0 right + 4) right)
            TorchFile.parse "x" (ended right) |> Error.orRaise |> ignore
        }

        testEach
            "a 64-bit directory at a place that overflows is refused"
            [ 0xFFFFFFFFFFFFFFC8UL; UInt64.MaxValue; 0x7FFFFFFFFFFFFFFFUL; 0x80000000UL ]
            (fun (record: uint64) ->
                let good = plainZip [ "a/data.pkl", pickle; "a/data/0", Array.create 24 9uy ]

                let locator =
                    Array.concat [
                        "PK\006\007"B
                        Array.zeroCreate 4
                        BitConverter.GetBytes record
                        [| 1uy; 0uy; 0uy; 0uy |]
                    ]

                let ended = Array.copy good[good.Length - 22 ..]
                Array.fill ended 8 4 0xFFuy
                let bad = Array.concat [ good[.. good.Length - 23]; locator; ended ]
                Must.contain "64-bit directory is not there" (reason bad)
                // Nothing before the locator.
                Must.contain "64-bit directory is not there" (reason (Array.concat [ "PK\003\004"B; locator; ended ]))
            )

        test "the names of an old file's storages are checked like those of its tensors" {
            let listing (key: string) =
                latin (legacyHeader + "\x80\002" + window floats 0L [ 6L ] [ 1L ] + $".\x80\002](" + key + "e.")

            for key in [ "V" + String('k', 1_000) + "\n"; "Va/b\n"; "K\001" ] do
                Must.contain "malformed" (reason (listing key))
        }

        testEach
            "an entry whose name leads out of its folder is refused, also where nothing asks for it"
            [ "/etc/passwd"; "../x"; "a/../../x"; "a/./x"; "a//x"; "a\\x"; "..\\x"; "C:/x"; "c:x"; "a/\n" ]
            (fun (name: string) ->
                let data = "a/data/0", Array.zeroCreate<byte> 24
                Must.contain "leads out" (reason (plainZip [ "a/data.pkl", pickle; data; name, "x"B ]))
            )

        testEach
            "a storage whose key is no plain name is refused"
            [ "../../secret"; "/0"; "a/b"; "."; "a.b"; ""; "a\\b"; "c:0"; "0 "; "\u00e9" ]
            (fun (key: string) ->
                let named =
                    window ((storage "FloatStorage" "KEY" 6L).Replace("KEY", key.Replace("\\", "\\u005c"))) 0L [] []

                for bytes in [ zipFile named []; legacyFile named [] ] do
                    Must.contain "malformed" (reason bytes)
            )

        test "what a header and the directory say of an entry must agree" {
            let data = Array.create 24 9uy
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", data ]
            TorchFile.parse "x" good |> Error.orRaise |> ignore
            let header, directory = places "a/data/0" good

            // Flags, method, checksum, both sizes, name; no field of equal meaning is in another place.
            for inHeader, inDirectory in [ 6, 8; 8, 10; 14, 16; 18, 20; 22, 24; 26, 28; 30, 46 ] do
                for i in [ header + inHeader; directory + inDirectory ] do
                    let bad = Array.copy good
                    bad[i] <- bad[i] ^^^ 4uy
                    refusal bad |> ignore
        }

        test "a checksum of zero counts as none only where the file says so twice" {
            let data = Array.create 24 9uy
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", data ]
            let header, directory = places "a/data/0" good

            let without (places: int list) =
                let bytes = Array.copy good
                places |> List.iter (fun i -> Array.fill bytes i 4 0uy)
                bytes

            for place in [ header + 14; directory + 16 ] do
                Must.contain "differs" (reason (without [ place ]))

            TorchFile.parse "x" (without [ header + 14; directory + 16 ]) |> Error.orRaise |> ignore
        }

        test "entries that overlap are refused" {
            let good =
                plainZip [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 24; "a/data/0", Array.zeroCreate 24 ]

            let directory (from: int) =
                from + ReadOnlySpan(good, from, good.Length - from).IndexOf(ReadOnlySpan "PK\001\002"B)

            let second = directory (directory 0 + 4)
            let third = directory (second + 4)
            Array.Copy(good, second + 42, good, third + 42, 4)
            Must.contain "overlap" (reason good)
        }

        // ---- the old format ----

        test "an old file that contradicts itself is refused with its reason" {
            let pickle = window floats 0L [ 6L ] [ 1L ]
            let data = Array.zeroCreate<byte> 24
            let good = legacyFile pickle [ "0", 6L, data ]

            let replaced (oldText: string) (newText: string) =
                latin ((Text.Encoding.Latin1.GetString good).Replace(oldText, newText))

            let announcing count = legacyFile (window (storage "FloatStorage" "0" count) 0L [] []) [ "0", count, data ]

            for bytes, text in
                [
                    legacyFile pickle [], "'0' is not there"
                    legacyFile pickle [ "1", 6L, data ], "belongs to no tensor"
                    legacyFile pickle [ "0", 6L, data; "0", 6L, data ], "listed twice"
                    legacyFile pickle [ "0", 5L, data ], "5 elements, and 6"
                    legacyFile pickle [ "0", -6L, data ], "-6 elements, and 6"
                    announcing Int64.MaxValue, "announces"
                    announcing 500_000_000L, "truncated"
                    legacyFile ("](" + pickle + pickle.Replace("Float", "Int") + "e") [ "0", 6L, data ], "in two ways"
                    Array.append good [| 0uy |], "1 bytes follow"
                    replaced "\x88s." "\x89s.", "big-endian"
                    replaced "M\xe9\003." "M\xea\003.", "1001"
                ] do
                Must.contain text (reason bytes)
        }
    ]
