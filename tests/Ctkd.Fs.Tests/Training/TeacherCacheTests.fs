module Ctkd.Fs.Tests.TeacherCacheTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private width = 5
let private large = 1_000_000L

let private opened (folder: string) (key: string) (budget: int64) (format: CacheFormat) : TeacherCache =
    TeacherCache.openFile folder key width budget format |> Error.orRaise

/// Features of a row, a function of its number.
let private features (row: int64) : float32[] =
    Rng.uniforms 3.0 width (Rng.at (int row) (Rng.ofSeed 5)) |> Array.map float32

let private remember (cache: TeacherCache) (rows: int64[]) : unit =
    TeacherCache.write cache rows (ReadOnlySpan(Array.collect features rows))

/// The positions that are missing, and all features.
let private recall (cache: TeacherCache) (rows: int64[]) : int[] * float32[] =
    let found = Array.zeroCreate<float32>(rows.Length * width)
    TeacherCache.read cache rows found, found

let tests =
    testList "TeacherCache" [
        test "what was remembered comes back to the bit, in this run and the next, and nothing else does" {
            let rows = Gen.arrayOf (Gen.choose (0, 300) |> Gen.map int64)

            check
                (Gen.zip rows rows)
                (fun (written, asked) ->
                    inFolder (fun folder ->
                        use cache = opened folder "key" large Exact
                        remember cache written

                        for cache in [ cache; opened folder "key" large Exact ] do
                            let missing, found = recall cache asked

                            let expected = [|
                                for i, row in Array.indexed asked do
                                    if not (Array.contains row written) then i
                            |]

                            Must.equal expected missing

                            for i in Array.except missing [| 0 .. asked.Length - 1 |] do
                                Must.equal (features asked[i]) (Array.sub found (i * width) width)
                    )
                )
        }

        test "rows of zeros are remembered too, and holes of the file are no rows" {
            inFolder (fun folder ->
                use cache = opened folder "key" large Exact
                TeacherCache.write cache [| 7L |] (ReadOnlySpan(Array.zeroCreate<float32> width))
                let missing, _ = recall cache [| for row in 0L .. 9L -> row |]
                Must.equal [| 0; 1; 2; 3; 4; 5; 6; 8; 9 |] missing
            )
        }

        test "a damaged row is one that is not there, whichever byte is damaged" {
            inFolder (fun folder ->
                let path =
                    use cache = opened folder "key" large Exact
                    remember cache [| 0L; 1L; 2L |]
                    cache.Path

                let whole = File.ReadAllBytes path
                let row = (whole.Length - 4096) / 3

                for at in 4096 + row .. 4096 + 2 * row - 1 do
                    let damaged = Array.copy whole
                    damaged[at] <- damaged[at] ^^^ 0x10uy
                    File.WriteAllBytes(path, damaged)
                    use cache = opened folder "key" large Exact
                    Must.equal [| 1 |] (fst (recall cache [| 0L; 1L; 2L |]))

                // Cut off in the middle of the last row, as a crash leaves it.
                File.WriteAllBytes(path, Array.truncate (whole.Length - 3) whole)
                use cache = opened folder "key" large Exact
                Must.equal [| 2 |] (fst (recall cache [| 0L; 1L; 2L |]))
            )
        }

        test "rows in 16 bits are near, and take half the space" {
            inFolder (fun folder ->
                use cache = opened folder "key" large Float16
                remember cache [| 3L |]
                let missing, found = recall cache [| 3L |]
                Must.beEmpty missing

                for expected, actual in Array.zip (features 3L) found do
                    Must.lie 0.0f (2e-3f) (abs (expected - actual))

                Must.equal (4096L + 4L * int64 (2 * width + 4)) (FileInfo(cache.Path).Length)
            )
        }

        test "what does not fit into the budget is not remembered, and the rest is" {
            inFolder (fun folder ->
                let row = int64 (4 * width + 4)
                use cache = opened folder "key" (4096L + 10L * row) Exact
                remember cache [| 3L; 9L; 10L; 4_000_000_000L |]
                Must.equal [| 2; 3 |] (fst (recall cache [| 3L; 9L; 10L; 4_000_000_000L |]))
                Must.lie 0L (4096L + 10L * row) (FileInfo(cache.Path).Length)
            )
        }

        test "every key and format has a file of its own" {
            inFolder (fun folder ->
                let paths = [
                    for key, format in [ "a", Exact; "b", Exact; "a", Float16 ] do
                        use cache = opened folder key large format
                        remember cache [| 0L |]
                        cache.Path
                ]

                Must.equal 3 ((List.distinct paths).Length)
            )
        }

        test "two runs write into one file and read each other's rows" {
            inFolder (fun folder ->
                use first = opened folder "key" large Exact
                use second = opened folder "key" large Exact
                remember first [| 1L; 2L |]
                remember second [| 2L; 3L |]

                for cache in [ first; second ] do
                    Must.beEmpty (fst (recall cache [| 1L; 2L; 3L |]))
            )
        }

        test "a file that is something else is refused, and stays as it is" {
            inFolder (fun folder ->
                let path =
                    use cache = opened folder "key" large Exact
                    cache.Path

                File.WriteAllText(path, "something else")
                let error = errorOf (TeacherCache.openFile folder "key" width large Exact)
                Must.equal (Unwritable, path) (error.Kind, error.Where)
                Must.contain "delete the file" error.Next
                Must.equal "something else" (File.ReadAllText path)

                let inFile = errorOf (TeacherCache.openFile (Path.Combine(path, "sub")) "key" width large Exact)

                Must.contain "--teacher-cache" inFile.Next
            )
        }
    ]
