module Ctkd.Fs.Tests.TemperatureTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open Ctkd.Fs.Tests.Policies
open FsCheck.FSharp

let tests =
    testList "Temperature" [
        test "every policy softens by its T and weighs by its square" {
            let policies = Scheduled.fixedAt 4.0 :: Scheduled.by (Schedule.constant 4.0) :: learned

            check
                (Gen.zip (Gen.elements policies) moderateLogits)
                (fun (policy, x) ->
                    Tensor.scoped (fun () ->
                        let tensor values = Plain.tensor [ x.Rows; x.Classes ] values

                        let softening =
                            Policy.soften
                                policy
                                (fresh policy x.Classes)
                                (values 0.5 4.0)
                                (tensor x.Teacher)
                                (tensor x.Student)

                        let t = Tensor.toFloats softening.T
                        let perRow row = t[row % t.Length]
                        let softened values = Array.mapi (fun i z -> z / perRow (i / x.Classes)) values
                        Must.beClose 1e-14 0.0 (softened x.Teacher) (Tensor.toFloats softening.Teacher)
                        Must.beClose 1e-14 0.0 (softened x.Student) (Tensor.toFloats softening.Student)

                        Must.beClose 1e-14 0.0 (Array.map (fun t -> t * t) t) (Tensor.toFloats softening.Weight)
                    )
                )
        }

        testProperty "the loss under a policy is KD at its T"
        <| forAll
            (Gen.zip (Gen.elements learned) moderateLogits)
            (fun (policy, x) ->
                Tensor.scoped (fun () ->
                    let parameters = fresh policy x.Classes
                    let t = temperatures policy parameters x
                    let rows = Array.chunkBySize x.Classes
                    let kd i teacher student = kd t[i % t.Length] teacher student
                    let expected = Array.mapi2 kd (rows x.Teacher) (rows x.Student) |> Array.average
                    let all = inputs parameters x |> List.map Plain.ofDense

                    Must.beNear
                        1e-10
                        1e-12
                        expected
                        (Tensor.toFloat (lossUnder policy 0.3 (Tree.names parameters) all))
                )
            )

        // ---- without parameters -------------------------------------------------------------------------

        test "fixed and scheduled temperatures declare nothing and follow their schedule" {
            let schedule = Schedule.linear 8.0 1.0 20

            for policy, name, at10 in [ Scheduled.fixedAt 4.0, "fixed", 4.0; Scheduled.by schedule, "schedule", 4.5 ] do
                Must.beEmpty (Policy.declarations 100 policy)

                Must.equal
                    (name, at10, 0.0)
                    (policy.Name, Schedule.at 10 (Policy.schedule policy), Schedule.at 10 (Policy.strength policy))
        }

        test "a fixed temperature that is not above 0 and finite is refused" {
            for bad in [ 0.0; -0.0; -4.0; nan; infinity; -infinity ] do
                Must.refuse "t" (fun () -> Scheduled.fixedAt bad)
        }

        // ---- CTKD, one T --------------------------------------------------------------------------------

        test "CTKD global starts at 15.6212" {
            Tensor.scoped (fun () ->
                let policy = Ctkd.globalPolicy range lambda
                let parameters = fresh policy 5
                Must.equal [ "theta" ] (Tree.names parameters)

                let x = {
                    Rows = 1
                    Classes = 5
                    Teacher = Array.zeroCreate 5
                    Student = Array.zeroCreate 5
                }

                Must.beClose 0.0 5e-5 [| 15.6212 |] (temperatures policy parameters x)
                Must.beNear 0.0 (5e-6) 0.02447 (Schedule.at 1 (Policy.strength policy))
            )
        }

        test "the T of CTKD global stays in its range and rises with theta" {
            let ranges =
                Gen.zip (uniform 0.5 5.0) (uniform 0.5 40.0)
                |> Gen.map (fun (start, scale) -> { Start = start; Scale = scale })

            check
                (Gen.zip3 ranges (uniform -30.0 30.0) (uniform 0.0 1.0))
                (fun (range, theta, strength) ->
                    let t theta =
                        Tensor.scoped (fun () ->
                            let parameters = Tree.ofSeq [ "theta", Plain.number theta ]
                            let z = Plain.tensor [ 1; 2 ] [| 1.0; 2.0 |]

                            let softening =
                                Policy.soften (Ctkd.globalPolicy range lambda) parameters (values strength 4.0) z z

                            Must.equal 0 (Tensor.rank softening.T)
                            Tensor.toFloat softening.T
                        )

                    Must.beNear 1e-14 0.0 (range.Start + range.Scale / (1.0 + exp -theta)) (t theta)
                    Must.lie range.Start (range.Start + range.Scale) (t theta)
                    Must.hold (t (theta + 0.1) >= t theta)
                )
        }

        test "the T of CTKD global lies strictly inside (1, 21)" {
            Tensor.scoped (fun () ->
                let z = { Rows = 1; Classes = 2; Teacher = [| 1.0; 2.0 |]; Student = [| 0.0; 1.0 |] }
                let policy = learned.Head

                for theta in [ -20.0; -1.0; 0.0; 1.0; 20.0 ] do
                    let t = (temperatures policy (Tree.ofSeq [ "theta", Plain.number theta ]) z)[0]
                    Expect.isTrue (t > 1.0 && t < 21.0) $"{theta} gives {t}"
            )
        }

        // ---- CTKD, a T for each instance ----------------------------------------------------------------

        testProperty "CTKD instance-wise gives every instance a T inside its range"
        <| forAll
            (Gen.zip logits (uniform -3.0 3.0))
            (fun (x, size) ->
                Tensor.scoped (fun () ->
                    let policy = learned[1]
                    let parameters = fresh policy x.Classes |> Tree.map (fun _ p -> Tensor.scale size p)
                    let t = temperatures policy parameters x
                    Must.equal x.Rows t.Length

                    for t in t do
                        Must.lie 1.0 21.0 t
                )
            )

        testProperty "the T of an instance depends on that instance alone"
        <| forAll
            moderateLogits
            (fun x ->
                Tensor.scoped (fun () ->
                    let parameters = fresh learned[1] x.Classes
                    let row values i = Array.sub values (i * x.Classes) x.Classes

                    let single i =
                        temperatures learned[1] parameters {
                            x with
                                Rows = 1
                                Teacher = row x.Teacher i
                                Student = row x.Student i
                        }

                    Must.beClose
                        1e-13
                        0.0
                        (Array.collect single [| 0 .. x.Rows - 1 |])
                        (temperatures learned[1] parameters x)
                )
            )

        test "CTKD instance-wise has two linear layers of the hidden width" {
            let shapes =
                Policy.declarations 100 (Ctkd.instancePolicy range 512 lambda) |> List.map (fun d -> d.Name, d.Shape)

            Must.equal
                [
                    "hidden.weight", [ 512; 200 ]
                    "hidden.bias", [ 512 ]
                    "output.weight", [ 1; 512 ]
                    "output.bias", [ 1 ]
                ]
                shapes
        }

        test "a learned temperature refuses a range that is not one" {
            let curriculum = Schedule.curriculum 10

            for start, scale in [ -1.0, 20.0; nan, 20.0; 1.0, 0.0; 1.0, infinity ] do
                let range = { Start = start; Scale = scale }
                let shared () = Ctkd.globalPolicy range curriculum |> ignore
                let instance () = Ctkd.instancePolicy range 8 curriculum |> ignore
                Must.refuse "range" shared
                Must.refuse "range" instance
        }

        test "the instance-wise policy refuses a hidden width below 1" {
            let make () = Ctkd.instancePolicy Ctkd.publishedRange 0 (Schedule.curriculum 10) |> ignore
            Must.refuse "hidden" make
        }
    ]
