// A model of your own on images of your own. Run with: dotnet fsi scripts/04-own-model.fsx
#load "_load.fsx"

open Ctkd.Fs

// Two classes of grey images of 16 x 16: vertical and horizontal stripes.
let stripe (i: int) (pixel: int) =
    let position = if i % 2 = 0 then pixel % 16 else pixel / 16
    if (position + i / 2) % 4 < 2 then 200uy else 50uy

let images = Array.init 400 (fun i -> Array.init 256 (stripe i))
let data = OwnSet.ofArrays "stripes" 16 16 images (Array.init 400 (fun i -> i % 2)) |> Error.orRaise
let body = Sequence [ Layer.convWithBias "conv" 3 2 3 8; Relu; Tap; GlobalPool ]
let model = Model.ofLayers "mine" Starts.kaiming body (Layer.dense "fc" 8 2)
let settings = { Settings.defaults with Epochs = 5; Milestones = [ 4 ] }

let own = {
    Distil.defaults with
        Settings = settings
        Student = Some model
        Data = Some data
}

Distil.run (Distil.fresh "runs/own-model") own
