/// The policies that soften teacher and student differently: DTKD and standardised logits.
module Ctkd.Fs.Tests.TemperaturePairTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open Ctkd.Fs.Tests.Policies
open FsCheck.FSharp

let private softened (policy: Policy) (tau: float) (x: Logits) : Softening =
    let tensor values = Plain.tensor [ x.Rows; x.Classes ] values
    Policy.soften policy (fresh policy x.Classes) (values 0.5 tau) (tensor x.Teacher) (tensor x.Student)

let private balanced (tau: float) (x: Logits) : float[] * float[] =
    Tensor.scoped (fun () ->
        let tensor values = Plain.tensor [ x.Rows; x.Classes ] values

        let ofTeacher, ofStudent = Dtkd.balanced (Plain.number tau) (tensor x.Teacher) (tensor x.Student)

        Tensor.toFloats ofTeacher, Tensor.toFloats ofStudent
    )

let private maxima (x: Logits) =
    let maxima = Array.chunkBySize x.Classes >> Array.map Array.max
    maxima x.Teacher, maxima x.Student

let tests =
    testList "TemperaturePair" [
        // ---- DTKD ---------------------------------------------------------------------------------------

        testProperty "the temperatures of DTKD are positive and finite everywhere and share out 2 tau"
        <| forAll
            (Gen.zip temperature (logitsOf [ 0.0; 1e-6; 1e-3; 1.0; 100.0; 1e4 ]))
            (fun (tau, x) ->
                let ofTeacher, ofStudent = balanced tau x

                for t in Array.append ofTeacher ofStudent do
                    Expect.isTrue (t > 0.0 && System.Double.IsFinite t) $"{t}"

                Must.beClose 1e-12 0.0 (Array.create x.Rows (2.0 * tau)) (Array.map2 (+) ofTeacher ofStudent)
            )

        testProperty "both sides get equally sharp under DTKD where both maxima exceed 0.001"
        <| forAll
            (Gen.zip temperature (logitsOf [ 0.1; 1.0; 100.0 ]))
            (fun (tau, x) ->
                let ofTeacher, ofStudent = balanced tau x
                let teacher, student = maxima x

                for i in 0 .. x.Rows - 1 do
                    if min teacher[i] student[i] > 1e-3 then
                        Must.beNear 1e-12 0.0 (teacher[i] / ofTeacher[i]) (student[i] / ofStudent[i])

                        Must.beNear 1e-12 0.0 (2.0 * tau * teacher[i] / (teacher[i] + student[i])) ofTeacher[i]
            )

        testProperty "DTKD softens each side by its own T and weighs by both"
        <| forAll
            (Gen.zip temperature moderateLogits)
            (fun (tau, x) ->
                Tensor.scoped (fun () ->
                    let ofTeacher, ofStudent = balanced tau x
                    let softening = softened (Dtkd.policy tau) tau x
                    let by (t: float[]) = Array.mapi (fun i z -> z / t[i / x.Classes])
                    Must.beClose 1e-14 0.0 (by ofTeacher x.Teacher) (Tensor.toFloats softening.Teacher)
                    Must.beClose 1e-14 0.0 (by ofStudent x.Student) (Tensor.toFloats softening.Student)

                    Must.beClose 1e-14 0.0 (Array.map2 (*) ofTeacher ofStudent) (Tensor.toFloats softening.Weight)

                    Must.beSame ofStudent (Tensor.toFloats softening.T)
                )
            )

        testProperty "DTKD reports both temperatures and the log-sum-exp of both sides' logits, as it sees them"
        <| forAll
            (Gen.zip temperature (logitsOf [ 0.0; 1e-3; 1.0; 100.0 ]))
            (fun (tau, x) ->
                Tensor.scoped (fun () ->
                    let leaf values = Plain.tensor [ x.Rows; x.Classes ] values |> Autograd.leaf

                    let reported policy =
                        Policy.reported policy Tree.empty (values 0.0 tau) (leaf x.Teacher) (leaf x.Student)

                    let largest = Array.chunkBySize x.Classes >> Array.map (Array.max >> max 1e-3)
                    let sharpness = Array.chunkBySize x.Classes >> Array.map Oracle.logSumExp
                    let teacher, student = largest x.Teacher, largest x.Student
                    let share own = Array.mapi (fun i m -> 2.0 * tau * m / (teacher[i] + student[i])) own

                    let expected = [
                        "temperature/student", share student
                        "temperature/teacher", share teacher
                        "sharpness/student", sharpness x.Student
                        "sharpness/teacher", sharpness x.Teacher
                    ]

                    let policy = Dtkd.policy tau
                    Must.equal (List.map fst expected) (Policy.reportedNames policy)

                    for (_, expected), actual in List.zip expected (reported policy) do
                        Must.beClose 1e-13 1e-13 expected (Tensor.toFloats actual)
                        Must.notHold actual.requires_grad

                    // Beside standardised logits it sees those.
                    let standard = Standardise.policy policy
                    let seen = leaf x.Student |> Loss.standardise |> Tensor.toFloats
                    Must.beClose 1e-13 1e-13 (sharpness seen) (reported standard |> List.item 2 |> Tensor.toFloats)
                )
            )

        test "policies with one temperature report nothing beside it" {
            for policy in Scheduled.fixedAt 4.0 :: Rlkd.policy RlkdConfig.paper 4.0 :: learned do
                Must.equal [] (Policy.reportedNames policy)
                let logits = Plain.tensor [ 1; 2 ] [| 1.0; 0.0 |]
                Must.beEmpty (Policy.reported policy Tree.empty (values 0.0 4.0) logits logits)
        }

        testPropertyWithConfig (times 100) "the gradients of DTKD flow through both maxima"
        <| forAll
            (logitsOf [ 1.0; 5.0 ])
            (fun x ->
                let apart values =
                    let sorted = Array.sortDescending values
                    sorted[0] - sorted[1] > 0.02

                let teacher, student = maxima x

                // Central differences need a smooth place: no ties, and no temperature near 0.
                if
                    Array.forall (fun m -> m > 0.5) (Array.append teacher student)
                    && Array.forall apart (Array.chunkBySize x.Classes (Array.append x.Teacher x.Student))
                then
                    Must.matchDerivatives (lossUnder (Dtkd.policy 4.0) 0.0 []) (inputs Tree.empty x)
            )

        testProperty "where no logit exceeds 0.001 DTKD is KD at tau, gradients included"
        <| forAll
            moderateLogits
            (fun x ->
                let below values = Array.map (fun z -> -abs z) values

                let inputs = inputs Tree.empty { x with Teacher = below x.Teacher; Student = below x.Student }

                let under policy = lossUnder policy 0.0 []
                let value f = Plain.value (fun () -> f (List.map Plain.ofDense inputs))
                let dtkd, kd = under (Dtkd.policy 4.0), under (Scheduled.fixedAt 4.0)
                Must.beNear 1e-12 1e-15 (value kd) (value dtkd)

                for expected, actual in List.zip (Plain.gradients kd inputs) (Plain.gradients dtkd inputs) do
                    Must.beClose 1e-11 1e-14 expected actual
            )

        test "KD and its gradients are finite under DTKD in float32 for a student that knows nothing" {
            for scale in [ 0.0; 1e-8; 1e-3; 1.0; 1e4 ] do
                check
                    (logitsOf [ 0.0; 1e-8; 1e-3; 1.0; 1e4 ])
                    (fun x ->
                        Tensor.scoped (fun () ->
                            let leaf values =
                                Tensor.ofFloats DType.Float32 [ x.Rows; x.Classes ] values |> Autograd.leaf

                            let teacher, student = leaf x.Teacher, leaf (Array.map (fun z -> z * scale) x.Student)

                            let tau = Tensor.scalar DType.Float32 Device.Cpu 4.0

                            let softening =
                                Policy.soften (Dtkd.policy 4.0) Tree.empty { Strength = tau; T = tau } teacher student

                            let loss = Tensor.mean (softening.Weight * Loss.kl softening.Teacher softening.Student)

                            let gradients =
                                Autograd.gradients loss [| teacher; student |] |> Array.collect Tensor.toFloats

                            for v in Array.append [| Tensor.toFloat loss |] gradients do
                                Expect.isTrue (System.Double.IsFinite v) $"{v}"
                        )
                    )
        }

        test "a tau that is not above 0 and finite is refused" {
            for bad in [ 0.0; -4.0; nan; infinity ] do
                Must.refuse "tau" (fun () -> Dtkd.policy bad)
        }

        // ---- standardised logits ------------------------------------------------------------------------

        testProperty "standardised logits have mean 0 and deviation 1 in every row, and equal logits become 0"
        <| forAll
            (logitsOf [ 0.0; 1.0; 100.0 ])
            (fun x ->
                let z = Plain.numbers (fun () -> Plain.tensor [ x.Rows; x.Classes ] x.Teacher |> Loss.standardise)

                for row, original in Array.zip (Array.chunkBySize x.Classes z) (Array.chunkBySize x.Classes x.Teacher) do
                    Must.beNear 0.0 1e-9 0.0 (Array.average row)
                    let variance = Array.sumBy (fun v -> v * v) row / float (x.Classes - 1)

                    if Array.max original - Array.min original > 0.1 then
                        Must.beNear 1e-5 0.0 1.0 variance

                    if Array.max original = Array.min original then
                        Must.beSame (Array.map abs row) (Array.zeroCreate x.Classes)
            )

        testProperty "standardised logits do not change under affine maps"
        <| forAll
            (Gen.zip3 (logitsOf [ 1.0; 100.0 ]) (uniform 0.1 10.0) (uniform -50.0 50.0))
            (fun (x, factor, shift) ->
                let standardise values =
                    Plain.numbers (fun () -> Plain.tensor [ x.Rows; x.Classes ] values |> Loss.standardise)

                let moved = Array.map (fun z -> factor * z + shift) x.Teacher
                // The 1e-7 beside the deviation is the only trace of the scale.
                Must.beClose 1e-3 1e-9 (standardise x.Teacher) (standardise moved)
            )

        testPropertyWithConfig
            (times 30)
            "the gradients of standardised logits are those of their values, and finite for equal logits"
        <| forAll
            (logitsOf [ 1.0; 5.0 ])
            (fun x ->
                let f (xs: Tensor list) = lossUnder (Standardise.policy (Scheduled.fixedAt 2.0)) 0.0 [] xs

                if
                    x.Classes > 2
                    && Array.chunkBySize x.Classes (Array.append x.Teacher x.Student)
                       |> Array.forall (fun row -> Array.max row - Array.min row > 0.5)
                then
                    Must.matchDerivatives f (inputs Tree.empty x)

                let flat = { x with Student = Array.create x.Student.Length 0.25 }
                let gradients = Plain.gradients f (inputs Tree.empty flat)

                for g in Array.concat gradients do
                    Must.hold (System.Double.IsFinite g)
            )

        testProperty "any policy works on standardised logits"
        <| forAll
            (Gen.zip (Gen.elements (Scheduled.fixedAt 4.0 :: Dtkd.policy 4.0 :: learned)) moderateLogits)
            (fun (policy, x) ->
                Tensor.scoped (fun () ->
                    let standardise values =
                        Plain.numbers (fun () -> Plain.tensor [ x.Rows; x.Classes ] values |> Loss.standardise)

                    let expected =
                        softened policy 4.0 {
                            x with
                                Teacher = standardise x.Teacher
                                Student = standardise x.Student
                        }

                    let actual = softened (Standardise.policy policy) 4.0 x
                    Must.beSame (Tensor.toFloats expected.Teacher) (Tensor.toFloats actual.Teacher)
                    Must.beSame (Tensor.toFloats expected.Student) (Tensor.toFloats actual.Student)
                    Must.beSame (Tensor.toFloats expected.Weight) (Tensor.toFloats actual.Weight)
                    let wrapped = Standardise.policy policy
                    Must.equal (policy.Name + "-standardised") wrapped.Name
                    Must.equal (Policy.declarations 7 policy) (Policy.declarations 7 wrapped)
                    Must.equal (Policy.strength policy) (Policy.strength wrapped)
                )
            )
    ]
