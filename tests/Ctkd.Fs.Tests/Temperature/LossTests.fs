module Ctkd.Fs.Tests.LossTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

let private matrix (x: Logits) (values: float[]) : Dense = { Shape = [ x.Rows; x.Classes ]; Values = values }
let private vector (values: float[]) : Dense = { Shape = [ values.Length ]; Values = values }
let private rowsOf (x: Logits) (values: float[]) : float[][] = Array.chunkBySize x.Classes values

/// The tensors of teacher and student given to a loss, and its numbers.
let private lossOf (loss: Tensor -> Tensor -> Tensor) (x: Logits) : float[] =
    Plain.numbers (fun () -> loss (Plain.ofDense (matrix x x.Teacher)) (Plain.ofDense (matrix x x.Student)))

let private kdOf (t: float) (x: Logits) : float[] =
    lossOf (fun teacher student -> Loss.kd (Plain.number t) teacher student) x

let private mapBoth (change: float -> float) (x: Logits) : Logits = {
    x with
        Teacher = Array.map change x.Teacher
        Student = Array.map change x.Student
}

/// The rounding error of a divergence of logits of this size.
let private rounding (x: Logits) : float = 1e-14 * (1.0 + Array.max (Array.map abs (Array.append x.Teacher x.Student)))

// ---- KD to 28 digits ----

let private exponential (x: decimal) : decimal =
    let small = x / 64m
    let terms = Seq.scan (fun term i -> term * small / decimal i) 1m [ 1..20 ]
    Seq.fold (fun power _ -> power * power) (Seq.sum terms) [ 1..6 ]

/// ln x for x near 1, by Newton's steps.
let private logarithm (x: decimal) : decimal =
    Seq.fold (fun y _ -> y + 2m * (x - exponential y) / (x + exponential y)) (decimal (log (float x))) [ 1..3 ]

/// T^2 KL of one instance, and its gradient with the student's logits: T (q - p).
let private exactKd (t: float) (teacher: float[]) (student: float[]) : float * float[] =
    let t = decimal t
    let powers = Array.map (fun z -> exponential (decimal z / t))
    let ofTeacher, ofStudent = powers teacher, powers student

    let p, q =
        ofTeacher |> Array.map (fun e -> e / Array.sum ofTeacher),
        ofStudent |> Array.map (fun e -> e / Array.sum ofStudent)

    let ratio = logarithm (Array.sum ofStudent / Array.sum ofTeacher)

    let terms =
        Array.map3 (fun p (z: float) (s: float) -> p * ((decimal z - decimal s) / t + ratio)) p teacher student

    float (t * t * Array.sum terms), Array.map2 (fun p q -> float (t * (q - p))) p q

let tests =
    testList "Loss" [
        test "KD in float32 keeps its digits and those of its gradient up to T = 1e6" {
            let draw purpose =
                Rng.ofSeed 5
                |> Rng.split purpose
                |> fun rng -> Array.init 40 (fun i -> float (float32 (16.0 * Rng.uniform i rng - 8.0)))

            let x = { Rows = 4; Classes = 10; Teacher = draw "teacher"; Student = draw "student" }

            for t in [ 1.0; 4.0; 20.0; 100.0; 1e4; 1e6 ] do
                let exact = Array.map2 (exactKd t) (rowsOf x x.Teacher) (rowsOf x x.Student)
                let narrow values = Tensor.ofFloats DType.Float32 [ 4; 10 ] values

                Tensor.scoped (fun () ->
                    let student = Autograd.leaf (narrow x.Student)
                    let loss = Loss.kd (Tensor.scalar DType.Float32 Device.Cpu t) (narrow x.Teacher) student
                    Must.equal DType.Float32 (Tensor.dtype loss)
                    Must.beClose 5e-6 0.0 (Array.map fst exact) (Tensor.toFloats loss)
                    let gradient = Autograd.gradients (Tensor.sum loss) [| student |] |> Array.head |> Tensor.toFloats
                    let expected = exact |> Array.collect snd
                    Must.beClose 0.0 (5e-6 * Array.max (Array.map abs expected)) expected gradient
                )

                // In float64 to the rounding of the softened logits.
                Must.beClose 1e-9 0.0 (Array.map fst exact) (kdOf t x)
        }

        testProperty "KL and KD equal their definition"
        <| forAll
            (Gen.zip temperature logits)
            (fun (t, x) ->
                let expected f = Array.map2 f (rowsOf x x.Teacher) (rowsOf x x.Student)
                Must.beClose 1e-11 (rounding x) (expected kl) (lossOf Loss.kl x)
                Must.beClose 1e-11 (t * t * rounding x) (expected (kd t)) (kdOf t x)
            )

        testPropertyWithConfig (times 300) "KL is never negative"
        <| forAll logits (fun x -> Seq.iter (fun d -> Expect.isTrue (d >= -rounding x) $"{d}") (lossOf Loss.kl x))

        testProperty "KL is exactly 0 when the logits are equal"
        <| forAll logits (fun x -> Seq.iter (fun d -> Must.equal 0.0 d) (lossOf Loss.kl { x with Student = x.Teacher }))

        test "KL is above 0 when the distributions differ" {
            let apart (x: Logits) =
                Array.map2
                    (fun t s -> Array.map2 (-) (softmax t) (softmax s) |> Array.sumBy abs)
                    (rowsOf x x.Teacher)
                    (rowsOf x x.Student)

            // Pinsker's inequality: KL >= |p - q|^2 / 2.
            check
                logits
                (fun x ->
                    for distance, divergence in Array.zip (apart x) (lossOf Loss.kl x) do
                        Expect.isTrue
                            (divergence >= distance * distance / 2.0 - rounding x)
                            $"{distance} and {divergence}"
                )
        }

        testProperty "a constant added to a row changes nothing"
        <| forAll
            (Gen.zip3 temperature logits (many 8 (uniform -50.0 50.0)))
            (fun (t, x, constants) ->
                let shift first values = Array.mapi (fun i v -> v + constants[first + i / x.Classes]) values
                let shifted = { x with Teacher = shift 0 x.Teacher; Student = shift 4 x.Student }
                Must.beClose 1e-9 (t * t * 100.0 * rounding x) (kdOf t x) (kdOf t shifted)
            )

        testProperty "the order of the classes does not matter"
        <| forAll
            (Gen.zip3 temperature logits anyInt)
            (fun (t, x, seed) ->
                let order = Rng.ofSeed seed |> Rng.permutation x.Classes |> Array.map int

                let permute values = rowsOf x values |> Array.collect (fun row -> Array.map (fun i -> row[i]) order)

                let permuted = { x with Teacher = permute x.Teacher; Student = permute x.Student }
                Must.beClose 1e-11 (t * t * rounding x) (kdOf t x) (kdOf t permuted)
            )

        testProperty "logits times T at temperature T give T squared times the loss at temperature 1"
        <| forAll
            (Gen.zip temperature logits)
            (fun (t, x) ->
                let expected = kdOf 1.0 x |> Array.map (fun loss -> t * t * loss)
                Must.beClose 1e-11 (t * t * rounding x) expected (kdOf t (mapBoth ((*) t) x))
            )

        testProperty "for high temperatures KD matches centred logits"
        <| forAll
            moderateLogits
            (fun x ->
                let limit teacher student =
                    let difference = Array.map2 (-) teacher student
                    let mean = Array.average difference
                    (difference |> Array.sumBy (fun d -> (d - mean) ** 2.0)) / (2.0 * float x.Classes)

                let expected = Array.map2 limit (rowsOf x x.Teacher) (rowsOf x x.Student)
                let size = Array.max (Array.map abs (Array.append x.Teacher x.Student))

                // The next term of the expansion in 1 / T, and the rounding of logarithms near log C times T^2.
                for t in [ 1e2; 1e3; 1e4 ] do
                    Must.beClose 0.0 (4.0 * size ** 3.0 / t + 2e-15 * t * t) expected (kdOf t x)
            )

        test "for low temperatures KD over T is what the student's best class leads the teacher's by" {
            let limit (teacher: float[]) (student: float[]) = Array.max student - student[argMax teacher]

            check
                (logitsOf [ 1.0; 10.0 ])
                (fun x ->
                    let t = 1e-4
                    let expected = Array.map2 limit (rowsOf x x.Teacher) (rowsOf x x.Student)

                    let decided =
                        rowsOf x x.Teacher
                        |> Array.map (fun row -> let best = largest 2 row in row[best[0]] - row[best[1]] > 30.0 * t)

                    let actual = kdOf t x |> Array.map (fun loss -> loss / t)
                    let keep values = Array.zip decided values |> Array.filter fst |> Array.map snd
                    // T times the student's logarithm of its classes, at most.
                    Must.beClose 0.0 (t * log (float x.Classes) + 1e-9) (keep expected) (keep actual)
                )
        }

        testProperty "a temperature for each instance gives what single instances give"
        <| forAll
            (Gen.zip logits (many 4 temperature))
            (fun (x, temperatures) ->
                let ts = Array.truncate x.Rows temperatures

                let single i =
                    kdOf ts[i] {
                        Rows = 1
                        Classes = x.Classes
                        Teacher = (rowsOf x x.Teacher)[i]
                        Student = (rowsOf x x.Student)[i]
                    }

                let together = lossOf (fun teacher student -> Loss.kd (Plain.tensor [ x.Rows ] ts) teacher student) x

                Must.beClose 1e-12 (400.0 * rounding x) (Array.collect single [| 0 .. x.Rows - 1 |]) together

                let mean = Plain.value (fun () -> Tensor.mean (Plain.tensor [ x.Rows ] together))

                Must.beNear
                    1e-12
                    (400.0 * rounding x)
                    (Array.average (Array.collect single [| 0 .. x.Rows - 1 |]))
                    mean
            )

        testProperty "equal temperatures for each instance give what one temperature gives"
        <| forAll
            (Gen.zip temperature logits)
            (fun (t, x) ->
                let each =
                    lossOf
                        (fun teacher student ->
                            Loss.kd (Plain.tensor [ x.Rows ] (Array.create x.Rows t)) teacher student
                        )
                        x

                Must.beSame (kdOf t x) each
            )

        testPropertyWithConfig
            (times 30)
            "the gradients of KD in teacher, student and one T are those of central differences"
        <| forAll
            (Gen.zip (uniform 1.0 21.0) moderateLogits)
            (fun (t, x) ->
                Must.matchDerivatives (fun xs -> Tensor.mean (Loss.kd xs[0] xs[1] xs[2])) [
                    { Shape = []; Values = [| t |] }
                    matrix x x.Teacher
                    matrix x x.Student
                ]
            )

        testPropertyWithConfig
            (times 30)
            "the gradients of KD with a T for each instance are those of central differences"
        <| forAll
            (Gen.zip (many 4 (uniform 1.0 21.0)) moderateLogits)
            (fun (ts, x) ->
                Must.matchDerivatives (fun xs -> Tensor.mean (Loss.kd xs[0] xs[1] xs[2])) [
                    vector (Array.truncate x.Rows ts)
                    matrix x x.Teacher
                    matrix x x.Student
                ]
            )

        testProperty "KD and its gradients stay finite for logits of any scale"
        <| forAll
            (Gen.zip (uniform 0.1 21.0) (logitsOf [ 0.0; 1e3; 1e6 ]))
            (fun (t, x) ->
                let inputs = [ { Shape = []; Values = [| t |] }; matrix x x.Teacher; matrix x x.Student ]
                let gradients = Plain.gradients (fun xs -> Tensor.mean (Loss.kd xs[0] xs[1] xs[2])) inputs

                for v in Array.concat (kdOf t x :: gradients) do
                    Must.hold (Double.IsFinite v)
            )

        testProperty "cross entropy is the mean of minus the logarithm of the label's probability"
        <| forAll
            (Gen.zip logits (many 4 (Gen.choose (0, 1000))))
            (fun (x, picks) ->
                let labels = picks |> Array.truncate x.Rows |> Array.map (fun pick -> pick % x.Classes)
                let expected = Array.map2 crossEntropy labels (rowsOf x x.Student) |> Array.average

                let withLabels logits = Loss.crossEntropy (Tensor.ofInt64s [ x.Rows ] (Array.map int64 labels)) logits

                Must.beNear
                    1e-12
                    (rounding x)
                    expected
                    (Plain.value (fun () -> withLabels (Plain.ofDense (matrix x x.Student))))
            )

        test "shapes that are not two equal matrices are refused with both shapes" {
            Tensor.scoped (fun () ->
                let zeros (shape: int list) = Plain.tensor shape (Array.zeroCreate (List.fold (*) 1 shape))

                for teacher, student in
                    [ [ 2; 3 ], [ 3; 2 ]; [ 2; 3 ], [ 2; 4 ]; [ 3 ], [ 3 ]; [ 1; 2; 3 ], [ 1; 2; 3 ]; [ 2; 3 ], [ 3 ] ] do
                    Must.refuse "student" (fun () -> Loss.kl (zeros teacher) (zeros student))

                    Must.refuse "student" (fun () -> Loss.kd (Plain.number 4.0) (zeros teacher) (zeros student))

                let error =
                    Must.throw<ArgumentException>(fun () -> Loss.kl (zeros [ 2; 3 ]) (zeros [ 2; 4 ]) |> ignore)

                Must.contain "[2, 3] and [2, 4]" error.Message
            )
        }
    ]
