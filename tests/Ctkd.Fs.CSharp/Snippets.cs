namespace Ctkd.Fs.CSharp;

/// <summary>The C# programs of the documentation, which a test compares with this file. Paths are relative.</summary>
public static class Snippets
{
    public static void Readme()
    {
        var teacher = Training.Start(
            new TrainingOptions { Student = "resnet14", PerClass = 100, Epochs = 5 }, "runs/teacher");
        var student = Training.Start(
            new TrainingOptions { Student = "resnet8", TeacherWeights = teacher.Folder, PerClass = 100, Epochs = 6, Policy = "ctkd-global" },
            "runs/student", epoch => Console.WriteLine($"{epoch.Epoch}: T {epoch.T?.Value:F2}, {epoch.Top1:F2} %"), default);
        Console.WriteLine($"best: {student.Best.Top1:F2} % in epoch {student.Best.Epoch}, {student.Checkpoint}");
    }
}
