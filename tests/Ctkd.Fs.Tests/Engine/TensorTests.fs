module Ctkd.Fs.Tests.TensorTests

open System
open Expecto
open Ctkd.Fs
open TorchSharp
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private cpu = Device.Cpu
let private doubles (values: float list) : Tensor = Plain.tensor [ values.Length ] (Array.ofList values)

/// Returns the booleans of the tensor that the body makes.
let private flags (body: unit -> Tensor) : bool list =
    Tensor.scoped (fun () -> Tensor.toBytes (body ()) |> Array.map ((=) 1uy) |> List.ofArray)

/// All supported element types.
let private dtypes: DType list = [
    DType.Byte
    DType.Int8
    DType.Int16
    DType.Int32
    DType.Int64
    DType.Bool
    DType.BFloat16
    DType.Float16
    DType.Float32
    DType.Float64
]

let tests =
    testList "Tensor" [
        test "every function of the seam is in the table of operations or among the others" {
            let tested = List.map (fun (o: Operations.Operation) -> o.Name) Operations.all @ Operations.others

            match typeof<Tree>.Assembly.GetType "Ctkd.Fs.TensorModule" with
            | null -> failtest "the seam is a module"
            | seam ->
                let names = seam.GetMethods() |> Array.filter _.IsStatic |> Array.map _.Name
                Must.equal (Set.ofArray names) (Set.ofList tested)
        }

        test "every operation gives the values and the shape of its plain counterpart" {
            for operation in Operations.all do
                let expected = operation.Naive operation.Inputs

                Tensor.scoped (fun () ->
                    let actual = operation.Apply(List.map Plain.ofDense operation.Inputs)
                    let shape = Tensor.shape actual |> Array.map int |> List.ofArray

                    Expect.isTrue
                        (shape = expected.Shape)
                        $"%s{operation.Name}: shape %A{shape}, expected %A{expected.Shape}"

                    try
                        Must.beClose 1e-12 1e-14 expected.Values (Tensor.toFloats actual)
                    with error ->
                        failtest $"{operation.Name}: {error.Message}"
                )
        }

        test "dropout zeroes its share, keeps the mean, and repeats from a seed" {
            Tensor.scoped (fun () ->
                let ones = Tensor.ofFloats DType.Float64 [ 20_000 ] (Array.create 20_000 1.0)

                let dropped (seed: uint64) =
                    Engine.seed Device.Cpu seed
                    Tensor.dropout 0.2 ones |> Tensor.toFloats

                let values = dropped 3UL
                Must.equal (Set [ 0.0; 1.25 ]) (Set values)
                // Four standard deviations of the share.
                Must.lie (1.0 - 0.0142) (1.0 + 0.0142) (Array.average values)
                Must.equal values (dropped 3UL)
                Must.differ values (dropped 4UL)
            )
        }

        test "shuffled channels keep the memory format" {
            Tensor.scoped (fun () ->
                let x = Tensor.ofFloats DType.Float64 [ 2; 6; 3; 5 ] (Rng.normals 180 (Rng.ofSeed 1))
                let expected = Tensor.shuffleChannels 2 x |> Tensor.toFloats
                let last = Tensor.shuffleChannels 2 (Tensor.channelsLast x)
                Must.hold (Tensor.isChannelsLast last)
                Must.equal expected (Tensor.toFloats last)
            )
        }

        test "operators between tensors and numbers are those of arithmetic" {
            let results =
                Tensor.scoped (fun () ->
                    let x, y = doubles [ 3.0 ], doubles [ 4.0 ]

                    [ x + y; x - y; x * y; x / y; x + 2.0; x - 2.0; x * 2.0; x / 2.0; -x ] |> List.map Tensor.toFloat
                )

            Must.equal [ 7.0; -1.0; 12.0; 0.75; 5.0; 1.0; 6.0; 1.5; -3.0 ] results
        }

        test "bytes of every type come back as they were given" {
            let cases = Gen.zip (Gen.elements dtypes) (Gen.choose (0, 7))

            check
                (Gen.zip cases (many 64 (Gen.choose (0, 255))))
                (fun ((dtype, count), values) ->
                    let limit = if dtype = DType.Bool then 2 else 256

                    let bytes =
                        values
                        |> Array.truncate (count * int (torch.empty(0L, dtype = dtype).element_size()))
                        |> Array.map (fun v -> byte (v % limit))

                    Tensor.scoped (fun () ->
                        let x = Tensor.ofBytes dtype [| int64 count |] (ReadOnlySpan bytes)
                        Must.equal dtype (Tensor.dtype x)
                        Must.equal bytes (Tensor.toBytes x)
                    )
                )
        }

        test "numbers that a type holds exactly come back as they were given" {
            let cases = [
                DType.Byte, [ 0.0; 1.0; 255.0 ]
                DType.Int8, [ -128.0; 0.0; 127.0 ]
                DType.Int16, [ -32768.0; 32767.0 ]
                DType.Int32, [ -2147483648.0; 2147483647.0 ]
                DType.Int64, [ -9007199254740992.0; 9007199254740992.0 ]
                DType.Bool, [ 0.0; 1.0 ]
                DType.BFloat16, [ -1.5; 0.0078125; 3.3895313892515355e38 ]
                DType.Float16, [ -1.5; 65504.0 ]
                DType.Float32, [ float 0.1f; -0.0; infinity ]
                DType.Float64, [ 0.1; Double.Epsilon; -infinity ]
            ]

            for dtype, values in cases do
                Must.beSame
                    (Array.ofList values)
                    (Plain.numbers (fun () -> Tensor.ofFloats dtype [ values.Length ] (Array.ofList values)))
        }

        test "bfloat16 rounds to the nearest even number" {
            let rounded =
                Plain.numbers (fun () -> Tensor.toType DType.BFloat16 (doubles [ 1.00390625; 1.01171875; 1.004 ]))

            Must.equal [| 1.0; 1.015625; 1.0078125 |] rounded
        }

        test "tensors are made with the shape, type and values asked for" {
            Tensor.scoped (fun () ->
                let facts (x: Tensor) = Tensor.dtype x, List.ofArray (Tensor.shape x), List.ofArray (Tensor.toFloats x)

                let expect dtype shape values x = Must.equal (dtype, shape, values) (facts x)
                expect DType.Float32 [ 2L ] [ 0.5; 1.5 ] (Tensor.ofSingles [ 2 ] [| 0.5f; 1.5f |])
                expect DType.Int64 [ 1L; 2L ] [ -1.0; 2.0 ] (Tensor.ofInt64s [ 1; 2 ] [| -1L; 2L |])
                expect DType.Float64 [] [ 0.1 ] (Tensor.scalar DType.Float64 cpu 0.1)
                expect DType.Int16 [ 2L ] [ 0.0; 0.0 ] (Tensor.zeros DType.Int16 cpu [| 2L |])
                expect DType.Float32 [ 2L ] [ 3.0; 3.0 ] (Tensor.full DType.Float32 cpu 3.0 [| 2L |])
                expect DType.Int64 [ 4L ] [ 0.0; 1.0; 2.0; 3.0 ] (Tensor.arange cpu 4)
                expect DType.Float64 [ 0L; 3L ] [] (Tensor.ofFloats DType.Float64 [ 0; 3 ] [||])
                Must.equal [| 3L; -4L |] (Tensor.toInt64s (Tensor.ofInt64s [ 2 ] [| 3L; -4L |]))
            )
        }

        test "a tensor tells its sizes, its place and its memory format" {
            Tensor.scoped (fun () ->
                let x = Tensor.zeros DType.Float32 cpu [| 2L; 3L; 4L; 5L |]
                Must.equal [ 2; 5; 4 ] [ Tensor.size 0 x; Tensor.size -1 x; Tensor.size -2 x ]
                Must.equal (4, 120L, cpu) (Tensor.rank x, Tensor.count x, Tensor.device x)
                Must.equal [ false; true ] (List.map Tensor.isChannelsLast [ x; Tensor.channelsLast x ])
                Must.throw<ArgumentOutOfRangeException>(fun () -> Tensor.size 4 x |> ignore) |> ignore
                Must.contain "2x3x4x5" (string x)
            )
        }

        test "comparisons and truth values" {
            let x, y = doubles [ 1.0; nan; infinity; 4.0 ], doubles [ 1.0; 2.0; infinity; 4.0001 ]
            Must.equal [ true; false; true; false ] (flags (fun () -> Tensor.eq x y))
            Must.equal [ true; false; false; false ] (flags (fun () -> Tensor.eqNumber 1.0 x))
            Must.equal [ false; false; false; true ] (flags (fun () -> Tensor.less x y))
            Must.equal [ true; false; false; false ] (flags (fun () -> Tensor.lessThanNumber 4.0 x))
            Must.equal [ true; false; false; true ] (flags (fun () -> Tensor.isFinite x))
            let finite () = Tensor.isFinite x
            let equal () = Tensor.eq x y

            Must.equal [ true; false; false; false ] (flags (fun () -> Tensor.logicalAnd (finite ()) (equal ())))

            Must.equal [ false; true; true; false ] (flags (finite >> Tensor.logicalNot))
            Must.equal [ false; true ] (flags (finite >> Tensor.all) @ flags (finite >> Tensor.any))
            Must.equal [ true ] (flags (fun () -> Tensor.all (Tensor.isFinite (Tensor.slice 0 0 1 x))))
        }

        test "positions of the largest are those of a sort, and of equals the first" {
            check
                (many 8 (uniform -1.0 1.0))
                (fun values ->
                    Tensor.scoped (fun () ->
                        let x = Plain.tensor [ 8 ] values
                        let struct (_, positions) = Tensor.topK 3 0 x
                        Must.equal (Oracle.largest 3 values) (Tensor.toInt64s positions |> Array.map int)
                        Must.equal (float (Oracle.argMax values)) (Tensor.toFloat (Tensor.argMax 0 x))
                    )
                )

            Must.equal 1.0 (Plain.value (fun () -> Tensor.argMax 0 (doubles [ 0.0; 2.0; 2.0; 1.0 ])))
        }

        testProperty "mixing on the device gives the bits of the host's generator"
        <| forAll
            (Gen.choose (System.Int32.MinValue, System.Int32.MaxValue))
            (fun seed ->
                Tensor.scoped (fun () ->
                    let rng = Rng.ofSeed seed
                    let counters = Array.init 20 (fun i -> int64 (rng.Key + uint64 i))
                    let expected = Array.init 20 (fun i -> int64 (Rng.bits i rng >>> 11))

                    Must.equal expected (Tensor.ofInt64s [ 20 ] counters |> Tensor.mix |> Tensor.toInt64s)
                )
            )

        test "functions in place change their target and nothing else" {
            Tensor.scoped (fun () ->
                let x, source = doubles [ 1.0; 2.0 ], doubles [ 10.0; 20.0 ]
                let expect values (x: Tensor) = Must.equal values (List.ofArray (Tensor.toFloats x))
                Tensor.addInto x source
                expect [ 11.0; 22.0 ] x
                Tensor.copyInto x source
                expect [ 10.0; 20.0 ] x
                let signed = doubles [ -1.0; 2.0 ]
                Tensor.reluInto signed
                expect [ 0.0; 2.0 ] signed
                Tensor.fillInto x 0.5
                expect [ 0.5; 0.5 ] x
                expect [ 10.0; 20.0 ] source
                let rows = Plain.tensor [ 3; 1 ] [| 1.0; 2.0; 3.0 |]

                Tensor.rowsInto rows (Tensor.ofInt64s [ 2 ] [| 2L; 0L |]) (Plain.tensor [ 2; 1 ] [| 30.0; 10.0 |])

                expect [ 10.0; 2.0; 30.0 ] rows
                let counter = Tensor.ofInt64s [] [| 41L |]
                Tensor.addIntInto 1 [| counter; counter |]
                Must.equal [| 43L |] (Tensor.toInt64s counter)
            )
        }

        test "a detached tensor has the same values and no gradient" {
            Tensor.scoped (fun () ->
                let x = Autograd.leaf (doubles [ 1.0; 2.0 ])

                Must.equal [ true; false ] [ (x * x).requires_grad; (Tensor.detach x * Tensor.detach x).requires_grad ]
            )
        }

        // ---- failures -----------------------------------------------------------------------------------

        test "an error carries libtorch's message without a backtrace" {
            Tensor.scoped (fun () ->
                let x = Tensor.zeros DType.Float32 cpu [| 2L; 3L |]
                let product = Must.throw<System.ArgumentException>(fun () -> Tensor.matmul x x |> ignore)
                Must.contain "[2, 3] and [2, 3]" product.Message

                let short = Must.throw<System.ArgumentException>(fun () -> Tensor.ofSingles [ 3 ] [| 1.0f |] |> ignore)

                Must.contain "4 bytes" short.Message

                let refused =
                    Must.throw<CtkdException>(fun () -> Engine.guarded (fun () -> Tensor.reshape [| 4L |] x |> ignore))

                Must.contain "shape '[4]' is invalid for input of size 6" refused.Message

                for message in [ product.Message; short.Message; refused.Message ] do
                    for part in [ "frame #"; "Exception raised from"; "0x" ] do
                        Must.lack part message
            )
        }

        test "an operation on a freed tensor throws, whichever argument it is" {
            for operation in Operations.all do
                for dead in 0 .. operation.Inputs.Length - 1 do
                    Tensor.scoped (fun () ->
                        let inputs = List.map Plain.ofDense operation.Inputs
                        Tensor.free inputs[dead]

                        Must.throw<InvalidOperationException>(fun () -> operation.Apply inputs |> ignore) |> ignore
                    )
        }

        test "questions to and changes of a freed tensor throw" {
            let x, y = doubles [ 1.0 ], doubles [ 2.0 ]
            Tensor.free x

            let uses: (Tensor -> unit) list = [
                Tensor.toFloats >> ignore
                Tensor.toInt64s >> ignore
                Tensor.toFloat >> ignore
                Tensor.toBytes >> ignore
                Tensor.shape >> ignore
                Tensor.size 0 >> ignore
                Tensor.rank >> ignore
                Tensor.count >> ignore
                Tensor.dtype >> ignore
                Tensor.device >> ignore
                Tensor.isChannelsLast >> ignore
                Tensor.detach >> ignore
                Tensor.eq y >> ignore
                Tensor.eqNumber 1.0 >> ignore
                Tensor.less y >> ignore
                Tensor.lessThanNumber 1.0 >> ignore
                Tensor.logicalAnd y >> ignore
                Tensor.logicalNot >> ignore
                Tensor.isFinite >> ignore
                Tensor.argMax 0 >> ignore
                Tensor.mix >> ignore
                Tensor.all >> ignore
                Tensor.any >> ignore
                Tensor.copyInto y
                Tensor.addInto y
                Tensor.reluInto
                (fun x -> Tensor.fillInto x 1.0)
                (fun x -> Tensor.rowsInto y (Tensor.ofInt64s [ 1 ] [| 0L |]) x)
                (fun x -> Tensor.addIntInto 1 [| x |])
                (fun x -> Tensor.sgdInto 0.9 0.0 false y [| x |] [| y |] [| y |])
                (fun x -> Tensor.sgdInto 0.9 0.0 false x [| y |] [| y |] [| y |])
                (fun x -> Tensor.adamInto 0.9 0.999 1e-8 0.1 y [| x |] [| y |] [| y |] [| y |])
                (fun x -> Tensor.adamWInto 0.9 0.999 1e-8 0.0 y y [| x |] [| y |] [| y |] [| y |])
                (fun x -> Tensor.lerpInto y [| x |] [| y |])
                Autograd.leaf >> ignore
                (fun x -> Autograd.gradients x [| y |] |> ignore)
                Engine.setGeneratorState
            ]

            for dead in uses do
                Must.throw<InvalidOperationException>(fun () -> dead x) |> ignore

            Tensor.free x
        }
    ]
