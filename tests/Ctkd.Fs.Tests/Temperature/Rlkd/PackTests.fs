/// Networks whose parameters lie in one vector.
module Ctkd.Fs.Tests.PackTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Parts

let tests =
    testList "Pack" [
        test "a gradient is shortened to the norm and never lengthened" {
            Tensor.scoped (fun () ->
                let clipped values = Pack.clipped 2.0 (row values) |> Tensor.toFloats
                Must.beClose 1e-6 0.0 [| 1.2; 1.6 |] (clipped [| 3.0; 4.0 |])
                Must.beSame [| 0.3; 0.4 |] (clipped [| 0.3; 0.4 |])
                Must.beSame [| 0.0; 0.0 |] (clipped [| 0.0; 0.0 |])
            )
        }
    ]
