module Ctkd.Fs.Tests.DistillerTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open FsCheck.FSharp

let private stem = [ 2; 8; 8 ]
let private maps = [ stem; [ 3; 4; 4 ]; [ 4; 2; 2 ] ]

/// An input of logits softened by the policy with T.
let private logitInput (policy: Policy) (t: float) (x: Logits) : DistillerInput =
    let tensor values = Plain.tensor [ x.Rows; x.Classes ] values
    let teacher, student = tensor x.Teacher, tensor x.Student
    let values: PolicyValues = { Strength = Plain.number 0.0; T = Plain.number t }

    {
        input (pooled teacher) (pooled student) (Array.zeroCreate x.Rows) with
            Softened = Policy.soften policy Tree.empty values teacher student
    }

let tests =
    testList "Distiller" [
        testProperty "vanilla KD is the mean over the batch of KD at the policy's T"
        <| forAll
            (Gen.zip temperature logits)
            (fun (t, x) ->
                Tensor.scoped (fun () ->
                    let actual = Kd.distiller.Loss Tree.empty (logitInput (Scheduled.fixedAt t) t x)
                    let rows = Array.chunkBySize x.Classes

                    let expected = Array.map2 (Oracle.kd t) (rows x.Teacher) (rows x.Student) |> Array.average

                    Must.equal 0 (Tensor.rank actual)
                    Must.beNear 1e-10 (t * t * 2e-12) expected (Tensor.toFloat actual)
                )
            )

        test "a distiller at a temperature of its own ignores the policy" {
            check
                (Gen.zip temperature moderateLogits)
                (fun (t, x) ->
                    Tensor.scoped (fun () ->
                        let expected = Kd.distiller.Loss Tree.empty (logitInput (Scheduled.fixedAt t) t x)

                        let actual =
                            (Distiller.at t Kd.distiller).Loss Tree.empty (logitInput (Dtkd.policy 4.0) 4.0 x)

                        Must.beSame (Tensor.toFloats expected) (Tensor.toFloats actual)
                    )
                )

            for bad in [ 0.0; -1.0; nan; infinity ] do
                Must.refuse "t" (fun () -> Distiller.at bad Kd.distiller)
        }

        test "a sum is the weighted sum of its parts, each with its own connectors" {
            Tensor.scoped (fun () ->
                let pair = pair maps maps
                let part create = create pair |> Error.orRaise

                let vid, fitNet, crd =
                    part Vid.distiller,
                    part (FitNet.distiller 1),
                    part (Crd.distiller { Crd.published with Negatives = 5 })

                let sum = Distiller.sum [ 0.5, vid; 2.0, fitNet; 0.8, crd; 0.9, Kd.distiller ]
                Must.equal "vid+fitnet+crd+kd" sum.Name

                let map seed shape = normal seed shape |> Plain.ofDense

                let outputs seed =
                    mapped [ map seed [ 4; 2; 8; 8 ]; map (seed + 1) [ 4; 3; 4; 4 ]; map (seed + 2) [ 4; 4; 2; 2 ] ]

                let input = input (outputs 1) (outputs 5) [| 0; 1; 2; 3 |]
                let all = state 1 sum
                let own (d: Distiller) = Tree.copy (Tree.under (d.Name + "/") all)

                let expected =
                    [ 0.5, vid; 2.0, fitNet; 0.8, crd; 0.9, Kd.distiller ]
                    |> List.sumBy (fun (weight, d) -> weight * Tensor.toFloat (d.Loss (own d) input))

                let memory = own crd
                Must.beNear 1e-12 0.0 expected (Tensor.toFloat (sum.Loss all input))
                sum.Remember all input
                crd.Remember memory input

                Must.beSame
                    (Tensor.toFloats (Tree.find "memory_student" memory))
                    (Tensor.toFloats (Tree.find "crd/memory_student" all))
            )
        }

        test "a sum needs as many instances as its most demanding part, and different names" {
            let rkd = Rkd.distiller 25.0 50.0 (pair maps maps) |> Error.orRaise
            Must.equal 2 ((Distiller.sum [ 1.0, Kd.distiller; 1.0, rkd ]).Fewest)
            Must.refuse "parts" (fun () -> Distiller.sum [])
            Must.refuse "parts" (fun () -> Distiller.sum [ 1.0, Kd.distiller; 2.0, Kd.distiller ])
        }

        test "every published distiller is found by its name and made for models of the zoo" {
            let model name = Zoo.find name 10 |> Error.orRaise

            let pair =
                ModelPair.create 32 32 (Array.init 100 (fun i -> i % 10)) 4 (model "resnet32x4") (model "resnet8x4")

            Must.equal [ "kd"; "dkd"; "pkt"; "sp"; "vid"; "crd"; "srrl"; "rkd"; "fitnet"; "at" ] Distillers.names

            for name in Distillers.names do
                let weight, distiller = Distillers.find name pair |> Error.orRaise
                Must.equal name distiller.Name
                Must.hold (weight > 0.0)

            Must.contain "dkd" ((errorOf (Distillers.find "dkdd" pair)).Next)
        }

        test "a pair has the shapes that the models show and the smallest batch of the epoch" {
            let teacher, student = threeMaps (2, 3, 4) 5, threeMaps (4, 5, 6) 5
            let labels = Array.init 21 (fun i -> i % 5)
            let smallest dropLast batch = ImageSet.smallestBatch dropLast batch labels.Length
            let pair = ModelPair.create 8 12 labels (smallest false 8) teacher student
            Must.equal [ [ 2; 8; 12 ]; [ 3; 4; 6 ]; [ 4; 2; 3 ] ] pair.Teacher.Maps
            Must.equal (6, 5, 5) (pair.Student.Pooled, pair.Student.Classes, pair.SmallestBatch)
            Must.equal [ 7; 7; 8; 21 ] [ smallest false 7; smallest true 7; smallest true 8; smallest false 21 ]
        }

        test "distillers without maps take any two models, the others say what does not fit" {
            let without = pair [] maps

            for name in Distillers.names do
                match name, Distillers.find name without with
                | ("sp" | "vid" | "fitnet" | "at"), Result.Error error ->
                    Must.equal Mismatch error.Kind
                    Must.contain "teacher" error.What
                    Must.beNonEmpty error.Next
                | ("kd" | "dkd" | "pkt" | "crd" | "srrl" | "rkd"), Ok _ -> ()
                | _, other -> failtest $"{name}: {other}"
        }

        test "a batch that is too small for a distiller is refused in words" {
            Tensor.scoped (fun () ->
                let rkd = Rkd.distiller 25.0 50.0 (pair maps maps) |> Error.orRaise
                let one = pooled (Plain.tensor [ 1; 4 ] [| 1.0; 2.0; 3.0; 4.0 |])

                let error =
                    Must.throw<System.ArgumentException>(fun () ->
                        Distiller.loss rkd Tree.empty (input one one [| 0 |]) |> ignore
                    )

                Must.contain "rkd needs at least 2 instances" error.Message
            )
        }
    ]
