using Ctkd.Fs;
using Ctkd.Torch;
using Xunit;

namespace Ctkd.Fs.CSharp;

/// <summary>The library as a C# program uses it.</summary>
public sealed class FacadeTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("ctkd-csharp-").FullName;

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_teacher_and_a_student_train_two_epochs_each()
    {
        var epochs = new List<int>();
        var teacher = Training.Start(
            new TrainingOptions { Student = "resnet14", PerClass = 20, Epochs = 2 },
            Path.Combine(folder, "teacher"), m => epochs.Add(m.Epoch), CancellationToken.None);

        var student = Training.Start(
            new TrainingOptions { Student = "resnet8", TeacherWeights = teacher.Folder, PerClass = 20, Epochs = 2, Policy = "ctkd-global" },
            Path.Combine(folder, "student"));

        Assert.Equal([1, 2], epochs);
        Assert.Equal(2, student.Epochs.Count());
        Assert.InRange(student.Epochs.Last().T?.Value ?? 0.0, 1.0, 21.0);
        Assert.True(File.Exists(student.Checkpoint));
    }

    [Fact]
    public void A_cancelled_run_goes_on_where_it_stopped()
    {
        using var stop = new CancellationTokenSource();
        var options = new TrainingOptions { Student = "resnet8", PerClass = 20, Epochs = 3 };
        var path = Path.Combine(folder, "run");
        var first = Training.Start(options, path, _ => stop.Cancel(), stop.Token);
        Assert.True(first.Ending.IsInterrupted);

        var second = Training.Resume(path, null, CancellationToken.None);
        Assert.True(second.Ending.IsFinished);
        Assert.Equal([1, 2, 3], second.Epochs.Select(m => m.Epoch));
    }

    [Fact]
    public void Methods_under_a_policy_are_two_options()
    {
        var teacher = Training.Start(
            new TrainingOptions { Student = "resnet8", PerClass = 20, Epochs = 1 },
            Path.Combine(folder, "teacher"));

        var student = Training.Start(
            new TrainingOptions
            {
                Student = "resnet8", TeacherWeights = teacher.Folder, PerClass = 20, Epochs = 1,
                Methods = ["kd", "at"], Policy = "dtkd", Standardise = true,
            },
            Path.Combine(folder, "student"));

        Assert.Equal(3.0, student.Settings.Methods["kd"]);
        Assert.Equal(1000.0, student.Settings.Methods["at"]);
        Assert.True(student.Settings.Standardise);
    }

    [Fact]
    public void A_recipe_gives_what_the_options_leave_open()
    {
        var plain = new TrainingOptions { Recipe = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed" }.ToSettings();
        Assert.Equal(8.0, plain.DkdBeta);
        Assert.Equal(240, plain.Epochs);

        var changed = new TrainingOptions
        {
            Recipe = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed", Batch = 64, Epochs = 24,
            Methods = ["kd", "dkd"], MethodWeights = [0.5, 2.0],
        }.ToSettings();

        Assert.Equal([15, 18, 21], changed.Milestones);
        Assert.Equal(0.5, changed.Methods["kd"]);
        Assert.Equal(0.01, changed.LearningRate);
        var error = Assert.Throws<CtkdException>(() => new TrainingOptions { Recipe = "dkd" }.ToSettings());
        Assert.Contains("unknown recipe 'dkd'", error.Message);
    }

    [Fact]
    public void Any_setting_is_set_by_its_name()
    {
        var options = new TrainingOptions { Policy = "rlkd" };
        options.Set("rlkd.warmUp", "6");
        options.Set("rlkd.ranks", "0.1,0.8");
        options.Set("perClass", "20");
        Assert.Equal(20, options.PerClass);
        var settings = options.ToSettings();
        Assert.Equal(6, settings.Rlkd.WarmUp);
        Assert.Equal([0.1, 0.8], settings.Rlkd.Ranks);

        Assert.Contains("warmUp", Assert.Throws<CtkdException>(() => options.Set("rlkd.warmup", "6")).Message);
        Assert.Contains("'six'", Assert.Throws<CtkdException>(() => options.Set("rlkd.warmUp", "six")).Message);
        Assert.Equal("rlkd", Policies.Rlkd(1, 1, 4.0).Name);
    }

    [Fact]
    public void A_loss_and_its_gradient_are_two_lines()
    {
        using var teacher = Tensor.Create<double>([2.0, 1.0, 0.0], [1, 3]);
        using var student = Tensor.Create<double>([0.0, 1.0, 2.0], [1, 3]);
        student.RequiresGrad = true;

        using var loss = Losses.Kd(4.0, teacher, student);
        using var gradient = Losses.Gradients(loss, student)[0];

        Assert.True(loss.ToArray<double>()[0] > 0.0);
        Assert.Equal(0.0, gradient.ToArray<double>().Sum(), 12);
        Assert.True(gradient.ToArray<double>()[0] < 0.0);
    }

    [Fact]
    public void Schedules_answer_At() => Assert.Equal(0.5, Schedules.Cosine(0.0, 1.0, 10).At(5), 12);

    [Fact]
    public void A_mistake_says_what_and_what_to_do()
    {
        var error = Assert.Throws<CtkdException>(() => Training.Start(new TrainingOptions { Student = "resnet21" }, folder));
        Assert.Contains("resnet20", error.Message);
    }

    [Fact]
    public void Scopes_free_what_they_made()
    {
        long before = Tensor.Live;
        using (var sum = Scopes.Run(() => Tensor.Create<double>([1.0, 2.0], [2]) * 2.0))
            Assert.Equal([2.0, 4.0], sum.ToArray<double>());
        Assert.Equal(before, Tensor.Live);
    }
}
