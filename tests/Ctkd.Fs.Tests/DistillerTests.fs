module Ctkd.Fs.Tests.DistillerTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Xunit

/// Outputs of which only the logits matter.
let private outputs (logits: Tensor) : Outputs = { Features = []; Pooled = logits; Logits = logits }

[<Fact>]
let ``vanilla KD is the mean over the batch of KD at the policy's T`` () =
    check
        (FsCheck.FSharp.Gen.zip temperature logits)
        (fun (t, x) ->
            Tensor.scoped (fun () ->
                let tensor values = Expect.tensor [ x.Rows; x.Classes ] values
                let teacher, student = tensor x.Teacher, tensor x.Student
                let dials: Dials = { Strength = Expect.number 0.0; Scheduled = Expect.number t }

                let lesson = {
                    Teacher = outputs teacher
                    Student = outputs student
                    Softened = (Temperature.fixedAt t).Soften Tree.empty dials teacher student
                    Labels = Tensor.ofInt64s [ x.Rows ] (Array.zeroCreate x.Rows)
                    Index = Tensor.arange Device.Cpu x.Rows
                    Classify = id
                    Key = Tensor.scalar DType.Int64 Device.Cpu 0.0
                }

                let actual = Distiller.kd.Loss Tree.empty lesson
                let rows = Array.chunkBySize x.Classes
                let expected = Array.map2 (Oracle.kd t) (rows x.Teacher) (rows x.Student) |> Array.average
                Assert.Equal(0, Tensor.rank actual)
                Expect.near 1e-10 (t * t * 2e-12) expected (Tensor.toFloat actual)
            )
        )

[<Fact>]
let ``vanilla KD has no connectors`` () = Assert.Empty Distiller.kd.Declares
