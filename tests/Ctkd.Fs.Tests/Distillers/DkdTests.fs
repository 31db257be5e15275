module Ctkd.Fs.Tests.DkdTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

/// Logits of at least three classes, with a label and a T per row.
let private cases scales =
    gen {
        let! x = logitsOf scales |> Gen.where (fun x -> x.Classes >= 3)
        let! seed = Inputs.seeds
        let! t = many x.Rows temperature
        return x, Inputs.labels seed x.Rows x.Classes, t
    }

let private dense (x: Logits, _: int[], t: float[]) : Dense list = [
    { Shape = [ x.Rows; x.Classes ]; Values = x.Teacher }
    { Shape = [ x.Rows; x.Classes ]; Values = x.Student }
    { Shape = [ x.Rows ]; Values = t }
]

let private softened (xs: Tensor list) : Softening = Policy.shared xs[2] xs[0] xs[1]

/// The published decomposition for one row.
let private dkd (alpha: float) (beta: float) (t: float) label (teacher: float[]) (student: float[]) : float =
    let soften = Array.map (fun z -> z / t)
    let others = Array.indexed >> Array.filter (fun (i, _) -> i <> label) >> Array.map snd
    let pair (z: float[]) = let p = (softmax z)[label] in [| p; 1.0 - p |]
    let teacher, student = soften teacher, soften student
    let tckd = Array.map2 (fun p q -> p * log (p / q)) (pair teacher) (pair student) |> Array.sum
    t * t * (alpha * tckd + beta * kl (others teacher) (others student))

let tests =
    testList "Dkd" [
        testProperty "DKD is TCKD and NCKD of each instance, weighted"
        <| forAll
            (Gen.zip (cases [ 1e-3; 1.0; 5.0 ]) (uniform 0.5 8.0))
            (fun ((x, labels, t as case), beta) ->
                let actual =
                    Plain.numbers (fun () ->
                        dense case |> List.map Plain.ofDense |> softened |> Dkd.loss 1.0 beta (Inputs.ofLabels labels)
                    )

                let rows = Array.chunkBySize x.Classes

                let expected =
                    Array.map2
                        (fun (t, label) (z, z') -> dkd 1.0 beta t label z z')
                        (Array.zip t labels)
                        (Array.zip (rows x.Teacher) (rows x.Student))

                Must.beClose 1e-9 (1e-11 * Array.max t ** 2.0) expected actual
            )

        testProperty "KD is TCKD and 1 - p_y times NCKD for each instance, p the teacher's at T, in value and gradient"
        <| forAll
            (cases [ 1e-3; 1.0; 5.0; 20.0 ])
            (fun (x, labels, _ as case) ->
                // A different weight per instance, so that a mix-up changes a gradient.
                let weights = Tensor.ofFloats DType.Float64 [ x.Rows ] (Array.init x.Rows (fun i -> 1.0 + float i))

                let decoupled (xs: Tensor list) =
                    let s, y = softened xs, Inputs.ofLabels labels

                    let p = Tensor.softmax 1 s.Teacher |> Tensor.gather 1 (Tensor.unsqueeze 1 y) |> Tensor.squeeze 1

                    let rest = Tensor.addNumber 1.0 -p
                    s.Weight * (Dkd.target y s.Teacher s.Student + rest * Dkd.others y s.Teacher s.Student)

                let kd (xs: Tensor list) = Loss.kd xs[2] xs[0] xs[1]
                let numbers f = Plain.numbers (fun () -> dense case |> List.map Plain.ofDense |> f)
                let slack = 1e-11 * Array.max (numbers kd |> Array.map (fun v -> 1.0 + abs v))
                Must.beClose 1e-9 slack (numbers kd) (numbers decoupled)
                let gradients f = Plain.gradients (fun xs -> Tensor.sum (weights * f xs)) (dense case)

                for expected, actual in List.zip (gradients kd) (gradients decoupled) do
                    Must.beClose 1e-8 (10.0 * slack * float x.Rows) expected actual

                Tensor.free weights
            )

        testProperty "DKD under DTKD softens each side by its own T and weighs by their product"
        <| forAll
            (cases [ 1.0; 5.0 ])
            (fun (x, labels, _) ->
                Tensor.scoped (fun () ->
                    let tensor values = Plain.tensor [ x.Rows; x.Classes ] values
                    let teacher, student, y = tensor x.Teacher, tensor x.Student, Inputs.ofLabels labels
                    let tau = Plain.number 4.0
                    let values: PolicyValues = { Strength = tau; T = tau }
                    let softening = Policy.soften (Dtkd.policy 4.0) Tree.empty values teacher student
                    let ofTeacher, ofStudent = Dtkd.balanced tau teacher student
                    let teacher, student = Loss.soften ofTeacher teacher, Loss.soften ofStudent student

                    let expected =
                        ofTeacher * ofStudent * (Dkd.target y teacher student + Dkd.others y teacher student * 8.0)

                    let actual = Dkd.loss 1.0 8.0 y softening
                    Must.beClose 1e-12 1e-12 (Tensor.toFloats expected) (Tensor.toFloats actual)
                )
            )

        testPropertyWithConfig (times 30) "the gradients of DKD are those of its values"
        <| forAll
            (cases [ 1e-3; 1.0; 5.0 ])
            (fun (_, labels, _ as case) ->
                let f xs = Dkd.loss 1.0 8.0 (Inputs.ofLabels labels) (softened xs) |> Tensor.mean
                Must.matchDerivatives f (dense case)
            )

        testProperty "DKD is 0 for student = teacher"
        <| forAll
            (cases [ 0.0; 1.0; 100.0 ])
            (fun (x, labels, t) ->
                let xs = dense ({ x with Student = x.Teacher }, labels, t)

                let f () = List.map Plain.ofDense xs |> softened |> Dkd.loss 1.0 2.0 (Inputs.ofLabels labels)

                Must.beSame (Array.zeroCreate x.Rows) (Plain.numbers f |> Array.map abs)
            )

        test "dL/dT of DKD is finite in float32 for logits up to 1e4 and T from 0.05 to 1e3" {
            let exponents = uniform (log 0.05) (log 1e3)

            checkMany
                300
                (Gen.zip3 (cases [ 0.0; 1e-3; 1.0; 100.0; 1e4 ]) exponents (Gen.constant ()))
                (fun ((x, labels, _), exponent, _) ->
                    Tensor.scoped (fun () ->
                        let single shape values = Tensor.ofFloats DType.Float32 shape values |> Autograd.leaf

                        let t = single [] [| exp exponent |]

                        let teacher, student =
                            single [ x.Rows; x.Classes ] x.Teacher, single [ x.Rows; x.Classes ] x.Student

                        let loss =
                            Policy.shared t teacher student
                            |> Dkd.loss 1.0 8.0 (Inputs.ofLabels labels)
                            |> Tensor.mean

                        for gradient in Autograd.gradients loss [| t; teacher; student |] do
                            for g in Tensor.toFloats gradient do
                                Expect.isTrue (System.Double.IsFinite g) $"{g}"
                    )
                )
        }

        test "DKD of two classes is refused" {
            Tensor.scoped (fun () ->
                let z = Plain.tensor [ 1; 2 ] [| 1.0; 2.0 |]

                Must.refuse
                    "softened"
                    (fun () -> Dkd.loss 1.0 2.0 (Inputs.ofLabels [| 0 |]) (Policy.shared (Plain.number 4.0) z z))
            )

            let maps = [ [ 4; 8; 8 ] ]
            let two = Inputs.pair maps maps
            let two = { two with Student = { two.Student with Classes = 2 } }
            Must.contain "two classes" ((Inputs.errorOf (Dkd.distiller 1.0 2.0 two)).What)
        }
    ]
